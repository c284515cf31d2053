//! What must be known of two connections to make one of them.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use sni_router_common::flow::{Addr, Flow, FlowKey, option, own, ports, tick, v6};
use sni_router_common::handshake::{self, Seen, seen};
use sni_router_common::rule::v4_mapped;

use super::known::Proof;
use crate::carry::{Client, Decline};
use crate::datapath::bpf::Handshakes;
use crate::monotonic::now_ns;
use crate::socket::Socket;
use crate::sys::repair::{self, TcpState};

/// The four addresses of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sides {
    pub(super) client: SocketAddr,
    pub(super) vip: SocketAddr,
    pub(super) source: SocketAddr,
    pub(super) endpoint: SocketAddr,
}

impl Sides {
    /// The key of the client's packets.
    pub(super) fn up(&self) -> FlowKey {
        key(self.client, self.vip)
    }

    /// The key of the endpoint's packets.
    pub(super) fn down(&self) -> FlowKey {
        key(self.endpoint, self.source)
    }
}

/// What is known of the client's connection before there is one to an endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Towards {
    pub(super) client: SocketAddr,
    pub(super) vip: SocketAddr,
    state: TcpState,
}

impl Towards {
    /// `None` if it has ended already.
    pub(super) fn of(client: &Client<'_>) -> Option<Self> {
        let state = repair::state(client.socket).ok()?;
        state.is_established().then_some(Self {
            client: client.addr,
            vip: client.vip,
            state,
        })
    }

    /// Has the endpoint send no segment that the client's path does not take. Best effort: where
    /// it fails, path MTU discovery finds out.
    pub(super) fn limit_segments(&self, socket: &socket2::Socket) {
        let has_timestamps = self.state.timestamps() == Some(true);
        let options = if has_timestamps { TIMESTAMPS } else { 0 };
        let _ = repair::limit_segment(socket, self.state.segment() + options);
    }
}

/// The two directions to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) up: Flow,
    pub(super) down: Flow,
}

/// Finds out how packets have to be changed, from what the program has seen of both handshakes and
/// what the kernel knows of both sockets. `received` is how many bytes were read from the client.
pub(super) fn learn(
    handshakes: &Handshakes,
    sides: &Sides,
    towards: &Towards,
    endpoint: &Socket,
    received: u32,
    connecting: Instant,
) -> Result<(Plan, Option<Proof>), Decline> {
    let c_seen = handshakes.seen(&sides.up()).ok_or(Decline::Unseen)?;
    let e_seen = handshakes.seen(&sides.down()).ok_or(Decline::Unseen)?;
    if is_v4(sides.client) != is_v4(sides.endpoint) {
        return Err(Decline::MixedFamilies);
    }
    let c = &towards.state;
    let e = repair::state(endpoint).map_err(|_| Decline::KernelRefused)?;
    if !e.is_established() || has_ended(&c_seen) || has_ended(&e_seen) {
        return Err(Decline::NotEstablished);
    }
    if has_spoken(&e_seen) {
        return Err(Decline::EndpointSpoke);
    }
    let has_timestamps = agreed(c, &e, &c_seen, &e_seen)?;
    if c_seen.end != c_seen.isn.wrapping_add(SYN).wrapping_add(received) {
        return Err(Decline::InFlight);
    }
    // Both are the position of the first byte of a stream, on either connection.
    let (c_up, e_up) = (c_seen.isn.wrapping_add(SYN), e_seen.ack);
    let (e_down, c_down) = (e_seen.isn.wrapping_add(SYN), c_seen.ack);
    let clocks = has_timestamps.then(|| {
        let e_now = e_seen.tsecr.wrapping_add(millis(connecting));
        let c_now = c_seen.tsecr.wrapping_add(millis_since(c_seen.since));
        [
            e_now.wrapping_sub(c_seen.tsval),
            c_now.wrapping_sub(e_seen.tsval),
        ]
    });
    let mut plan = join(
        sides,
        &Half {
            terms: Terms {
                // A socket that was made in the middle of a connection does not know.
                has_ecn: c.has_ecn() || c_seen.flags & RESUMED_ECN == RESUMED_ECN,
                ..Terms::of(c)
            },
            theirs: c_up,
            ours: c_down,
            ifindex: c_seen.ifindex,
        },
        &Half {
            terms: Terms::of(&e),
            theirs: e_down,
            ours: e_up,
            ifindex: e_seen.ifindex,
        },
        clocks,
        received,
    );
    plan.down.own |= own::HELD;
    plan.down.since_or_held = e_up.wrapping_add(received);
    let proof = has_timestamps.then(|| Proof {
        front: front(c, &c_seen),
        mtu: Terms::of(&e).mtu,
        ifindex: e_seen.ifindex,
    });
    Ok((plan, proof))
}

/// By which interface, and path, a client has come that has shaken hands as they all do.
fn front(c: &TcpState, c_seen: &Seen) -> Option<(u32, u16)> {
    let is_accepted = c_seen.flags & (seen::SCALED | seen::SACK | seen::RESUMED);
    // What it asks for, this host may not have granted.
    let is_usual = is_accepted == seen::SCALED | seen::SACK && c.has_sack() && c.has_scales();
    is_usual.then_some((c_seen.ifindex, Terms::of(c).mtu))
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
    fn of(state: &TcpState) -> Self {
        Self {
            window: state.peer_window(),
            peer_scale: state.peer_scale(),
            own_scale: state.own_scale(),
            mtu: u16::try_from(state.path_mtu()).unwrap_or(u16::MAX),
            has_sack: state.has_sack(),
            has_ecn: state.has_ecn(),
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

/// Whether the two handshakes agreed on the same.
fn agreed(c: &TcpState, e: &TcpState, c_seen: &Seen, e_seen: &Seen) -> Result<bool, Decline> {
    let (Some(c_has), Some(e_has)) = (c.timestamps(), e.timestamps()) else {
        return Err(Decline::Options);
    };
    let flags = c_seen.flags | e_seen.flags;
    let is_signed = flags & seen::SIGNED != 0;
    // The counts of the two connections differ by what has come before.
    let counts_marks = flags & seen::COUNTS_MARKS != 0;
    // What a packet has shown must be what the kernel says, or somebody in between takes options
    // away.
    let shown = |seen: &Seen| seen.flags & seen::TIMESTAMPS != 0;
    if c_has != e_has
        || shown(c_seen) != c_has
        || shown(e_seen) != e_has
        || is_signed
        || counts_marks
    {
        return Err(Decline::Options);
    }
    Ok(c_has)
}

/// Also of a v4-mapped address.
fn is_v4(addr: SocketAddr) -> bool {
    addr.ip().to_canonical().is_ipv4()
}

/// Whether a FIN or a RST came by.
pub(super) fn has_ended(seen: &Seen) -> bool {
    seen.flags & (seen::FIN | seen::RST) != 0
}

/// Whether anything but the handshake came by, be it only a FIN or a RST.
pub(super) fn has_spoken(seen: &Seen) -> bool {
    has_ended(seen) || seen.end != seen.isn.wrapping_add(SYN)
}

/// The key of the packets from one to the other.
pub(super) fn key(from: SocketAddr, to: SocketAddr) -> FlowKey {
    FlowKey {
        src: words(from.ip()),
        dst: words(to.ip()),
        ports: ports(from.port(), to.port()),
    }
}

fn words(addr: IpAddr) -> Addr {
    match addr {
        IpAddr::V4(v4) => v6(v4_mapped(v4.octets())),
        IpAddr::V6(addr) => v6(addr.octets()),
    }
}

/// Of a clock of ours that was at some value then: rounded up, so that the clock never goes back.
fn millis(since: Instant) -> u32 {
    since.elapsed().as_millis() as u32 + 1
}

fn millis_since(then: u32) -> u32 {
    handshake::millis(now_ns()).wrapping_sub(then) + 1
}

/// Its socket was made, and the client had asked for ECN, which this host mostly grants.
const RESUMED_ECN: u32 = seen::RESUMED | seen::ECN;

/// Bytes of a timestamps option, padded.
const TIMESTAMPS: u32 = 12;

/// A SYN counts as one in sequence numbers.
pub(super) const SYN: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_right_where_the_hello_crosses_the_end_of_the_sequence_numbers() {
        let addr = |text: &str| text.parse().expect("an address");
        let sides = Sides {
            client: addr("10.0.0.1:1000"),
            vip: addr("10.0.0.2:443"),
            source: addr("10.0.0.3:2000"),
            endpoint: addr("10.0.0.4:8443"),
        };
        let half = |theirs| Half {
            terms: Terms {
                window: 65_535,
                peer_scale: 0,
                own_scale: 0,
                mtu: 1500,
                has_sack: true,
                has_ecn: false,
            },
            theirs,
            ours: u32::MAX,
            ifindex: 1,
        };
        for (theirs, received) in [(0, 500), (u32::MAX - 499, 500), (u32::MAX - 100, 500)] {
            let Plan { up, down } = join(&sides, &half(theirs), &half(7), None, received);
            assert_eq!((up.bytes(), down.bytes()), (received.into(), 0));
            assert_eq!(up.end as u32, theirs.wrapping_add(received));
        }
    }
}
