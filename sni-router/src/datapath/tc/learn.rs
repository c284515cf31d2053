//! What must be known of two connections to make one of them.

use std::net::SocketAddr;
use std::time::Instant;

use sni_router_common::flow::own;
use sni_router_common::handshake::{self, Seen, seen};

use super::join::{Half, Plan, Terms, join};
use super::known::Proof;
use super::sides::Sides;
use crate::carry::{Client, Decline};
use crate::datapath::bpf::Handshakes;
use crate::monotonic::now_ns;
use crate::socket::Socket;
use crate::sys::repair::{self, TcpState};

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

    /// Has the endpoint, which has yet to hear of the client's windows, hear of no more room than the client has: what
    /// it sends at once must not be too much. Best effort: a client that is sent too much drops it, and gets it again.
    pub(super) fn limit_window(&self, socket: &socket2::Socket) {
        let room = self.state.peer_window();
        let _ = match self.has_little_room() {
            // In units of a byte, which tell little room best, and are all that a client without scaling knows.
            true => repair::limit_window(socket, room),
            // Its windows may grow. Before Linux 5.14 the endpoint hears of more.
            false => repair::limit_first_window(socket, room),
        };
    }

    /// The endpoint sends to this host, not to the client, which gets what it has room for.
    pub(super) fn free_window(&self, endpoint: &Socket) {
        if self.has_little_room() {
            let _ = repair::limit_window(endpoint, u32::MAX);
        }
    }

    fn has_little_room(&self) -> bool {
        let is_little = || self.state.peer_window() < first_flight(self.state.segment());
        !self.state.has_scales() || is_little()
    }
}

/// Bytes that a peer sends before it hears that any were received, in segments of so many (RFC 6928, section 2).
fn first_flight(segment: u32) -> u32 {
    (10 * segment).min((2 * segment).max(14_600))
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
            terms: takes(&e, &e_seen, is_v4(sides.endpoint)),
            theirs: e_down,
            ours: e_up,
            ifindex: e_seen.ifindex,
        },
        clocks,
        received,
    );
    if !plan.tells_windows() {
        return Err(Decline::SmallWindow);
    }
    plan.down.own |= own::HELD;
    plan.down.since_or_held = e_up.wrapping_add(received);
    let proof = has_timestamps.then(|| Proof {
        front: front(c, &c_seen),
        mtu: Terms::of(&e).mtu,
        ifindex: e_seen.ifindex,
    });
    Ok((plan, proof))
}

/// What was agreed upon with an endpoint.
fn takes(e: &TcpState, e_seen: &Seen, is_v4: bool) -> Terms {
    match seen::segment(e_seen.flags) {
        0 => Terms::of(e),
        bytes => Terms::of(e).with_segments(bytes, is_v4),
    }
}

/// By which interface, and path, a client has come that has shaken hands as they all do.
fn front(c: &TcpState, c_seen: &Seen) -> Option<(u32, u16)> {
    let is_accepted = c_seen.flags & (seen::SCALED | seen::SACK | seen::RESUMED);
    // What it asks for, this host may not have granted.
    let is_usual = is_accepted == seen::SCALED | seen::SACK && c.has_sack() && c.has_scales();
    is_usual.then_some((c_seen.ifindex, Terms::of(c).mtu))
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
