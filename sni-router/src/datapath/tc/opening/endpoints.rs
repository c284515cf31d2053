//! The endpoints that they are connected to.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sni_router_common::flow::{FlowKey, own};
use sni_router_common::handshake::{millis, seen};
use sni_router_common::taken::Taken;
use tracing::debug;

use super::super::join::{Half, Terms, join};
use super::super::known::{Front, Path};
use super::super::learn::SYN as ONE;
use super::super::registry::{Carried, lock};
use super::super::segment::{ACK, CLOCKS, RST, SYN, Segment};
use super::super::sides::{Sides, sides};
use super::super::source::SourcePort;
use super::Opener;
use super::clients::{Awaited, Opening, Openings};
use super::hellos::Hello;
use super::sizes::{most_of, segment_of, window_of};
use crate::carry::{Alone as _, Direction, Guest, Kind};
use crate::monotonic::now_ns;

impl Openings {
    /// Where the packets to an endpoint go, once a port is taken; `None` where that is not known, or packets
    /// cannot go there.
    pub(super) fn way(
        &self,
        key: &FlowKey,
        endpoint: SocketAddr,
    ) -> Option<(SourcePort, Sides, Path)> {
        let opener = &self.opener;
        let (client, vip) = sides(key);
        let ifindex = self.clients.get(key)?.ifindex;
        let leads_back = || opener.ways.leads(vip.ip(), client.ip(), ifindex);
        if client.is_ipv4() != endpoint.is_ipv4() || !leads_back() {
            return None;
        }
        let known = |from| opener.known.path(from, endpoint);
        let is_known = |from| known(from).is_some();
        let registry = &opener.registry;
        let source = SourcePort::take(&registry.ports, registry, endpoint, is_known)?;
        let path = known(source.from())?;
        let sides = Sides {
            client,
            vip,
            source: SocketAddr::new(path.source, source.number()),
            endpoint: source.endpoint(),
        };
        (!opener.ipsec.covers(&sides)).then_some((source, sides, path))
    }

    /// Gives the guest back where the client needs a socket.
    pub(super) fn send_syn(
        &mut self,
        key: FlowKey,
        guest: Box<dyn Guest>,
    ) -> Result<(), Box<dyn Guest>> {
        let endpoint = guest.endpoint();
        let Some((mut source, sides, path)) = self.way(&key, endpoint) else {
            return Err(guest);
        };
        let (opener, opening) = (&self.opener, self.clients.get_mut(&key));
        let Some(opening) = opening else {
            return Err(guest);
        };
        // As the kernel chooses them (RFC 9293, section 3.4.1): a clock of 64 ns, and what nobody can guess.
        let random = &opener.common.random;
        let isn = (now_ns() >> 6) as u32;
        let isn = isn.wrapping_add(random.hash_one((sides.source, sides.endpoint)) as u32);
        let isn = opener.rank.sign(isn);
        let clock = clock(random, &sides).wrapping_sub(opening.last.tsval);
        let (down, since) = (sides.down(), Instant::now());
        if !opener.flows.handshakes().wait_for(&down, isn) {
            return Err(guest);
        }
        source.used();
        let awaited = Awaited {
            guest,
            from: source.from(),
            source: Some(source),
            sides,
            path,
            isn,
            clock,
            since,
        };
        if let Err(error) = opener.send_raw(&syn(&opening.last, opening.front, &awaited)) {
            debug!(%error, %endpoint, "a SYN could not be sent");
            opener.flows.handshakes().forget(&down, Some(isn));
            return Err(awaited.guest);
        }
        opening.awaited = Some(awaited);
        self.endpoints.insert(down, key);
        let again = (since + SYN_AGAIN, key, opening.number);
        self.timers.repeats.push_back(again);
        Ok(())
    }

    /// Sends a SYN that was not answered once more: it was lost, or met what the endpoint remembers of another
    /// connection from the same port, which is gone by now.
    pub(super) fn send_syn_again(&self, key: &FlowKey) {
        let opening = self.clients.get(key);
        if let Some((opening, awaited)) = opening.and_then(|it| Some((it, it.awaited.as_ref()?))) {
            // One that is lost again falls back.
            let _ = self
                .opener
                .send_raw(&syn(&opening.last, opening.front, awaited));
        }
    }

    /// An endpoint has sent a SYN-ACK.
    pub(super) fn answered(&mut self, answer: &Taken) {
        let Some(key) = self.endpoints.remove(&answer.key) else {
            return;
        };
        let Some(opening) = self.clients.get_mut(&key) else {
            return;
        };
        let Some(mut awaited) = opening.awaited.take() else {
            return;
        };
        let leaves_by = self.masters.leaves_by(answer.ifindex, awaited.path.ifindex);
        let Sides {
            source, endpoint, ..
        } = awaited.sides;
        let ways = &self.opener.ways;
        let leaves_by = leaves_by.filter(|it| ways.leads(source.ip(), endpoint.ip(), *it));
        awaited.path.ifindex = leaves_by.unwrap_or(answer.ifindex);
        let is_usual = leaves_by.is_some() && answer.flags & (AGREED | HINDERS) == AGREED;
        let is_there = self.opener.is_there(&key, opening);
        let carried = match is_usual && is_there {
            true => self.opener.hand_over(key, opening, &mut awaited, answer),
            false => None,
        };
        if let Some((carried, hello)) = carried {
            self.hellos.push(hello, carried.number());
            lock(&self.opener.common.balance).opened();
            let (begun, took) = (opening.begun, awaited.since.elapsed());
            self.clients.remove(&key);
            return awaited.guest.opened(begun, took, Box::new(carried));
        }
        self.refuse(&awaited, answer);
        if is_there {
            self.opener
                .known
                .forget(awaited.from, awaited.sides.endpoint);
        }
        self.serve(key, awaited.past());
    }

    /// An endpoint has sent a RST.
    pub(super) fn refused(&mut self, answer: &Taken) {
        if let Some(key) = self.endpoints.remove(&answer.key) {
            self.fall_back(key);
        }
    }

    /// Tells an endpoint that its SYN-ACK was in vain.
    pub(super) fn refuse(&self, awaited: &Awaited, answer: &Taken) {
        let random = &self.opener.common.random;
        let rst = Segment {
            from: awaited.sides.source,
            to: awaited.sides.endpoint,
            seq: awaited.isn.wrapping_add(ONE),
            ack: answer.seq.wrapping_add(ONE),
            flags: RST | ACK,
            window: 0,
            clocks: [clock(random, &awaited.sides), answer.tsval],
            syn: None,
            payload: &[],
        };
        // The endpoint asks again where this is lost, and the stack answers.
        let _ = self.opener.send_raw(&rst);
        self.forget(awaited);
    }
}

impl Opener {
    /// Makes a flow of a client and its endpoint, and sends the hello. `None` where that cannot be, or the table
    /// takes none.
    pub(super) fn hand_over(
        &self,
        key: FlowKey,
        opening: &mut Opening,
        awaited: &mut Awaited,
        answer: &Taken,
    ) -> Option<(Carried, Hello)> {
        let Opening {
            last,
            start,
            received,
            front,
            ifindex,
            own_scale,
            ..
        } = opening;
        let &mut Awaited {
            sides,
            ref path,
            isn,
            clock,
            ..
        } = awaited;
        // Exactly: what the client echoes before it has heard of the endpoint must be what the endpoint's SYN-ACK
        // had, or a hello that is sent again is not taken for the handshake's end (`tcp_check_req()`,
        // net/ipv4/tcp_minisocks.c, Linux 6.15). The client's clock of us goes on where it was.
        let down_clock = last.tsecr.wrapping_sub(answer.tsval);
        let peer_scale = seen::scale(last.flags);
        let client = Half {
            terms: Terms {
                window: u32::from(last.window) << peer_scale,
                peer_scale,
                own_scale: *own_scale,
                mtu: front.mtu,
                has_sack: true,
                has_ecn: last.flags & seen::ECN != 0,
            },
            theirs: *start,
            ours: last.ack,
            ifindex: *ifindex,
        };
        let endpoint = Half {
            terms: Terms {
                window: answer.window.into(),
                peer_scale: seen::scale(answer.flags),
                own_scale: peer_scale,
                mtu: path.mtu,
                has_sack: true,
                has_ecn: false,
            }
            .with_segments(most_of(answer.flags), sides.endpoint.is_ipv4()),
            theirs: answer.seq.wrapping_add(ONE),
            ours: isn.wrapping_add(ONE),
            ifindex: path.ifindex,
        };
        let clocks = Some([clock, down_clock]);
        let bytes = received.len() as u32;
        let mut plan = join(&sides, &client, &endpoint, clocks, bytes);
        if !plan.tells_windows() {
            return None;
        }
        // What was judged is what arrives, and nothing that the client might send in its place.
        plan.down.own |= own::GUARDED;
        plan.down.since_or_held = endpoint.ours.wrapping_add(bytes);
        let handshakes = self.flows.handshakes();
        let source = awaited.source.take()?;
        let carried = match self.registry.insert(sides, &mut plan, source) {
            Ok(carried) => carried,
            Err((error, source)) => {
                debug!(%error, "a flow was not taken into the table");
                awaited.source = Some(source);
                return None;
            }
        };
        let room = segment_of(path.mtu, sides.endpoint.ip()).min(most_of(answer.flags));
        let hello = Hello {
            sides,
            from: awaited.from,
            seq: endpoint.ours,
            ack: endpoint.theirs,
            window: last.window,
            clocks: [last.tsval.wrapping_add(clock), answer.tsval],
            room: (room as usize).saturating_sub(CLOCKS).max(1),
            bytes: std::mem::take(received),
        };
        // First, since the connection may be over as soon as the hello is sent, and the next one from the client's
        // port would be taken for a part of this one.
        handshakes.forget(&key, Some(start.wrapping_sub(ONE)));
        handshakes.forget(&sides.down(), Some(isn));
        hello.send(self);
        self.registry
            .meter
            .add(Kind::Tc, Direction::Up, bytes.into());
        Some((carried, hello))
    }

    /// Sends a segment of the hello. One that is lost is sent again.
    pub(super) fn send(&self, segment: &Segment<'_>, sides: &Sides) {
        let mut sent = self.send_raw(segment);
        if sent
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        {
            // A firewall drops what connection tracking takes for invalid, since it has not seen
            // the SYN-ACK. Of a connection that it does not know, it takes the middle for the beginning.
            self.conntrack.forget(sides);
            sent = self.send_raw(segment);
        }
        if let Err(error) = sent {
            debug!(%error, "a hello could not be sent");
        }
    }
}

impl Opener {
    fn send_raw(&self, segment: &Segment<'_>) -> io::Result<()> {
        let (from, to) = (segment.from.ip(), segment.to.ip());
        self.raw.send(&segment.packet(), from, to)
    }
}

/// What opens a connection to an endpoint for a client whose last packet is `last`.
fn syn(last: &Taken, front: Front, awaited: &Awaited) -> Segment<'static> {
    let Awaited { sides, path, .. } = awaited;
    let mtu = path.mtu.min(front.mtu);
    let segment = segment_of(mtu, sides.endpoint.ip()).min(most_of(last.flags));
    Segment {
        from: sides.source,
        to: sides.endpoint,
        seq: awaited.isn,
        ack: 0,
        flags: SYN,
        window: window_of(last),
        clocks: [last.tsval.wrapping_add(awaited.clock), 0],
        syn: Some((segment as u16, seen::scale(last.flags) as u8)),
        payload: &[],
    }
}

/// What the clock of timestamps to an endpoint says: the same from all ports, so that one that is used again has
/// gone on there (RFC 7323, appendix B.2).
fn clock(random: &RandomState, sides: &Sides) -> u32 {
    let offset = random.hash_one((sides.source.ip(), sides.endpoint));
    millis(now_ns()).wrapping_add(offset as u32)
}

/// How long after a SYN it is sent once more: less than TCP waits, since endpoints are near.
const SYN_AGAIN: Duration = Duration::from_millis(200);

/// What a SYN-ACK must grant.
const AGREED: u32 = seen::TIMESTAMPS | seen::SACK | seen::SCALED;
/// What it must not.
const HINDERS: u32 = seen::SIGNED | seen::COUNTS_MARKS | seen::ECN | seen::FIN | seen::RST;
