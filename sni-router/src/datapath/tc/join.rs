//! One connection made of two: how each direction's packets have to be changed.

use sni_router_common::flow::{Flow, option, tick};

use super::segment::{IPV4_HEADER, IPV6_HEADER, TCP_HEADER};
use super::sides::{Sides, key};
use crate::monotonic::now_ns;
use crate::sys::repair::TcpState;

/// The two directions to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) up: Flow,
    pub(super) down: Flow,
}

/// One of the two connections, or what is known of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Half {
    pub(super) terms: Terms,
    /// The sequence number of the first byte from the peer.
    pub(super) theirs: u32,
    /// The one of the first byte to it.
    pub(super) ours: u32,
    /// The interface by which the peer's packets come.
    pub(super) ifindex: u32,
}

/// What was agreed upon with a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Bytes that it is ready to receive.
    pub(super) window: u32,
    /// By how many bits its windows are scaled, and ours.
    pub(super) peer_scale: i8,
    pub(super) own_scale: i8,
    /// Largest IP packet that the path to it is known to take.
    pub(super) mtu: u16,
    pub(super) has_sack: bool,
    pub(super) has_ecn: bool,
}

impl Terms {
    pub(super) fn of(state: &TcpState) -> Self {
        Self {
            window: state.peer_window(),
            peer_scale: state.peer_scale(),
            own_scale: state.own_scale(),
            mtu: u16::try_from(state.path_mtu()).unwrap_or(u16::MAX),
            has_sack: state.has_sack(),
            has_ecn: state.has_ecn(),
        }
    }

    /// Of a peer whose SYN says that it takes segments of so many bytes: what is larger, somebody on the path may let pass no
    /// more than that, as the ends of tunnels say in its place. Not less than what every sender heeds when it is told (RFC
    /// 791, section 3.2; RFC 8200, section 5).
    pub(super) fn with_segments(self, bytes: u32, is_v4: bool) -> Self {
        let (headers, least) = match is_v4 {
            true => (IPV4_HEADER + TCP_HEADER, 576),
            false => (IPV6_HEADER + TCP_HEADER, 1280),
        };
        let packet = bytes.saturating_add(headers as u32).max(least);
        let packet = u16::try_from(packet).unwrap_or(u16::MAX);
        Self {
            mtu: self.mtu.min(packet),
            ..self
        }
    }

    /// Of what only the sender, whose terms these are, has agreed to, the receiver gets nothing.
    fn without(&self, receiver: &Self) -> u8 {
        let mut without = 0;
        if self.has_sack && !receiver.has_sack {
            without |= option::NO_SACK;
        }
        if self.has_ecn && !receiver.has_ecn {
            without |= option::NO_ECN;
        }
        without
    }
}

/// Makes one connection of the client's and the endpoint's, of which the client has sent `received` bytes. With
/// `clocks`, what is added to the client's timestamps and to the endpoint's.
pub(super) fn join(
    sides: &Sides,
    client: &Half,
    endpoint: &Half,
    clocks: Option<[u32; 2]>,
    received: u32,
) -> Plan {
    let now = tick(now_ns());
    let (source, to) = (
        key(sides.source, sides.endpoint),
        key(sides.vip, sides.client),
    );
    let (options, [up_clock, down_clock]) = match clocks {
        Some(clocks) => (option::TIMESTAMPS, clocks),
        None => (0, [0, 0]),
    };
    let up_base = endpoint.ours.wrapping_sub(client.theirs);
    let down_base = client.ours.wrapping_sub(endpoint.theirs);
    let (c, e) = (&client.terms, &endpoint.terms);
    let up = Flow {
        src: source.src,
        dst: source.dst,
        ports: source.ports,
        seq_add: up_base,
        ack_add: down_base.wrapping_neg(),
        ts_add: up_clock,
        ecr_add: down_clock.wrapping_neg(),
        ifindex: endpoint.ifindex,
        // Not as sent: what has wrapped is counted.
        end: u64::from(client.theirs) + u64::from(received),
        ack: client.ours,
        edge: client.ours.wrapping_add(c.window),
        seen: now,
        id: 0,
        start: client.theirs,
        since_or_held: now,
        mtu: e.mtu,
        shift: c.peer_scale - e.own_scale,
        options: options | c.without(e) | option::scale(c.peer_scale),
        own: 0,
        peer: 0,
        closed: 0,
        up: 1,
    };
    let down = Flow {
        src: to.src,
        dst: to.dst,
        ports: to.ports,
        seq_add: down_base,
        ack_add: up_base.wrapping_neg(),
        ts_add: down_clock,
        ecr_add: up_clock.wrapping_neg(),
        ifindex: client.ifindex,
        end: endpoint.theirs.into(),
        ack: endpoint.ours,
        edge: endpoint.ours.wrapping_add(e.window),
        seen: now,
        id: 0,
        start: endpoint.theirs,
        since_or_held: 0,
        mtu: c.mtu,
        shift: e.peer_scale - c.own_scale,
        options: options | e.without(c) | option::scale(e.peer_scale),
        own: 0,
        peer: 0,
        closed: 0,
        up: 0,
    };
    Plan { up, down }
}

impl Plan {
    /// Whether each side can be told the other one's windows, which were scaled for this host. In units that are too
    /// large, a small window is nothing, and nobody sends.
    pub(super) fn tells_windows(&self) -> bool {
        [&self.up, &self.down].into_iter().all(|flow| {
            let window = flow.edge.wrapping_sub(flow.ack);
            let scale = (flow.options >> 4) as i8 - flow.shift;
            // What is under way takes one.
            flow.shift >= 0 || window >> scale >= 2
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half(theirs: u32) -> Half {
        let terms = Terms {
            window: 65_535,
            peer_scale: 0,
            own_scale: 0,
            mtu: 1500,
            has_sack: true,
            has_ecn: false,
        };
        Half {
            terms,
            theirs,
            ours: u32::MAX,
            ifindex: 1,
        }
    }

    fn sides() -> Sides {
        let addr = |text: &str| text.parse().expect("an address");
        Sides {
            client: addr("10.0.0.1:1000"),
            vip: addr("10.0.0.2:443"),
            source: addr("10.0.0.3:2000"),
            endpoint: addr("10.0.0.4:8443"),
        }
    }

    #[test]
    fn bytes_count_right_where_the_hello_crosses_the_end_of_the_sequence_numbers() {
        for (theirs, received) in [(0, 500), (u32::MAX - 499, 500), (u32::MAX - 100, 500)] {
            let Plan { up, down } = join(&sides(), &half(theirs), &half(7), None, received);
            assert_eq!((up.bytes(), down.bytes()), (received.into(), 0));
            assert_eq!(up.end as u32, theirs.wrapping_add(received));
        }
    }

    #[test]
    fn packets_to_a_peer_are_no_larger_than_its_segments() {
        let mtu = |bytes, is_v4| half(1).terms.with_segments(bytes, is_v4).mtu;
        assert_eq!((mtu(1460, true), mtu(1440, false)), (1500, 1500));
        assert_eq!((mtu(65_535, true), mtu(8960, false)), (1500, 1500));
        assert_eq!((mtu(1360, true), mtu(1360, false)), (1400, 1420));
        assert_eq!((mtu(88, true), mtu(88, false)), (576, 1280));
    }

    #[test]
    fn windows_can_be_told_in_units_of_which_there_are_two() {
        // What a side is ready for, how it scales that, and how this host scales towards the other side.
        for (window, theirs, ours, can) in [
            (65_535, 0, 14, true),
            (32_768, 0, 14, true),
            (32_767, 0, 14, false),
            (2_304, 7, 11, false),
            (4_096, 7, 11, true),
            (1_024, 7, 7, true),
            (1, 0, 0, true),
            (0, 14, 0, true),
        ] {
            let (mut small, mut other) = (half(1), half(7));
            small.terms.window = window;
            small.terms.peer_scale = theirs;
            other.terms.own_scale = ours;
            let plans = [
                join(&sides(), &small, &other, None, 500),
                join(&sides(), &other, &small, None, 500),
            ];
            for plan in plans {
                assert_eq!(plan.tells_windows(), can, "{window} {theirs} {ours}");
            }
        }
    }
}
