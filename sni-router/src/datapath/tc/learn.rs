//! What must be known of two connections to make one of them.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use sni_router_common::flow::{Addr, Flow, FlowKey, option, own, ports, tick, v6};
use sni_router_common::handshake::{self, Seen, seen};
use sni_router_common::rule::v4_mapped;

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
) -> Result<Plan, Decline> {
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
    let (up_clock, down_clock) = if has_timestamps {
        let e_now = e_seen.tsecr.wrapping_add(millis(connecting));
        let c_now = c_seen.tsecr.wrapping_add(millis_since(c_seen.since));
        (
            e_now.wrapping_sub(c_seen.tsval),
            c_now.wrapping_sub(e_seen.tsval),
        )
    } else {
        (0, 0)
    };
    let now = tick(now_ns());
    let up_base = e_up.wrapping_sub(c_up);
    let down_base = c_down.wrapping_sub(e_down);
    let (source, to) = (
        key(sides.source, sides.endpoint),
        key(sides.vip, sides.client),
    );
    let options = if has_timestamps {
        option::TIMESTAMPS
    } else {
        0
    };
    // Of what only the sender has agreed to, the receiver gets nothing.
    let without = |sender: &TcpState, receiver: &TcpState| {
        let mut without = 0;
        if sender.has_sack() && !receiver.has_sack() {
            without |= option::NO_SACK;
        }
        if sender.has_ecn() && !receiver.has_ecn() {
            without |= option::NO_ECN;
        }
        without
    };
    let up = Flow {
        src: source.src,
        dst: source.dst,
        ports: source.ports,
        seq_add: up_base,
        ack_add: down_base.wrapping_neg(),
        ts_add: up_clock,
        ecr_add: down_clock.wrapping_neg(),
        ifindex: e_seen.ifindex,
        end: c_up.wrapping_add(received).into(),
        ack: c_down,
        edge: c_down.wrapping_add(c.peer_window()),
        seen: now,
        id: 0,
        start: c_up,
        since_or_held: now,
        mtu: mtu(&e),
        shift: c.peer_scale() - e.own_scale(),
        options: options | without(c, &e) | option::scale(c.peer_scale()),
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
        ifindex: c_seen.ifindex,
        end: e_down.into(),
        ack: e_up,
        edge: e_up.wrapping_add(e.peer_window()),
        seen: now,
        id: 0,
        start: e_down,
        since_or_held: e_up.wrapping_add(received),
        mtu: mtu(c),
        shift: e.peer_scale() - c.own_scale(),
        options: options | without(&e, c) | option::scale(e.peer_scale()),
        own: own::HELD,
        peer: 0,
        closed: 0,
        up: 0,
    };
    Ok(Plan { up, down })
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

fn key(from: SocketAddr, to: SocketAddr) -> FlowKey {
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

fn mtu(state: &TcpState) -> u16 {
    u16::try_from(state.path_mtu()).unwrap_or(u16::MAX)
}

/// Of a clock of ours that was at some value then: rounded up, so that the clock never goes back.
fn millis(since: Instant) -> u32 {
    since.elapsed().as_millis() as u32 + 1
}

fn millis_since(then: u32) -> u32 {
    handshake::millis(now_ns()).wrapping_sub(then) + 1
}

/// Bytes of a timestamps option, padded.
const TIMESTAMPS: u32 = 12;

/// A SYN counts as one in sequence numbers.
pub(super) const SYN: u32 = 1;
