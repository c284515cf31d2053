//! Clients that need a socket after all, or nothing any more.

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use sni_router_common::flow::FlowKey;
use sni_router_common::handshake::{self, seen};
use tracing::debug;

use super::super::learn::SYN as ONE;
use super::super::registry::lock;
use super::super::segment::{ACK, RST};
use super::super::sides::sides;
use super::Opener;
use super::clients::{Awaited, Opening, Openings};
use super::sizes::{most_of, segment_of};
use crate::carry::{Before, Guest, Loss};
use crate::monotonic::now_ns;
use crate::sys::repair::{self, Unaccepted};

/// How far it had come when it was given up.
#[derive(Default)]
pub(super) struct Past {
    pub(super) guest: Option<Box<dyn Guest>>,
    /// When the guest's endpoint was sent a SYN.
    pub(super) asked: Option<Instant>,
    /// How often a socket could not be made.
    pub(super) failures: u32,
}

impl Past {
    pub(super) fn before(self, begun: Instant) -> Before {
        let Self { guest, asked, .. } = self;
        Before {
            begun,
            guest,
            asked,
        }
    }
}

impl Openings {
    /// Serves a client by a socket, whatever has become of it so far.
    pub(super) fn fall_back(&mut self, key: FlowKey) {
        let Some(opening) = self.clients.get_mut(&key) else {
            return;
        };
        let (awaited, stuck) = (opening.awaited.take(), opening.stuck.take());
        match (awaited, stuck) {
            (Some(awaited), _) => {
                // Whatever is the matter, the next one finds out with a socket.
                let known = &self.opener.known;
                known.forget(awaited.from, awaited.sides.endpoint);
                let past = self.drop_awaited(awaited);
                self.serve(key, past);
            }
            (None, past) => self.serve(key, past.unwrap_or_default()),
        }
    }

    /// Makes a socket for a client.
    pub(super) fn serve(&mut self, key: FlowKey, mut past: Past) {
        let Some(mut opening) = self.clients.remove(&key) else {
            return;
        };
        if !self.opener.is_there(&key, &opening) {
            opening.stuck = Some(past);
            return self.lose(&key, opening);
        }
        // The socket takes one of its own.
        opening.place = None;
        match self.opener.accept(&key, &opening) {
            Ok(socket) => {
                // What the socket has said already, a client takes for out of order (RFC 9293, section 3.10.7.4).
                self.opener.tell(&key, &opening, ACK);
                let before = past.before(opening.begun);
                let (client, _) = sides(&key);
                self.opener.doorman.serve(socket, client, before);
            }
            Err(error) if past.failures >= attempts(&error) => {
                debug!(%error, "a socket could not be made");
                self.opener.tell_without_socket(&key, &opening, RST | ACK);
                let isn = opening.start.wrapping_sub(ONE);
                self.fail(&key, isn, past.before(opening.begun));
            }
            Err(_) => {
                past.failures += 1;
                opening.stuck = Some(past);
                let retry = (Instant::now() + A_MOMENT, key, opening.number);
                self.timers.retries.push_back(retry);
                self.clients.insert(key, opening);
                return;
            }
        }
        if lock(&self.opener.common.balance).fell_back() {
            debug!("most clients need sockets: for a while all get them");
            self.opener.known.pause();
        }
    }

    /// Of no use to a client: what it sends from now on the stack answers with a RST.
    pub(super) fn fail(&self, key: &FlowKey, isn: u32, before: Before) {
        self.opener.flows.handshakes().forget(key, Some(isn));
        let (client, vip) = sides(key);
        let doorman = &self.opener.doorman;
        doorman.lost(client, vip, before, Loss::NoSocket);
    }

    /// A client has left, or begun anew.
    pub(super) fn lose(&mut self, key: &FlowKey, opening: Opening) {
        let isn = opening.start.wrapping_sub(ONE);
        self.opener.flows.handshakes().forget(key, Some(isn));
        let past = match opening.awaited {
            Some(awaited) => self.drop_awaited(awaited),
            None => opening.stuck.unwrap_or_default(),
        };
        let before = past.before(opening.begun);
        let (client, vip) = sides(key);
        self.opener.doorman.lost(client, vip, before, Loss::Left);
    }

    fn drop_awaited(&mut self, awaited: Awaited) -> Past {
        self.endpoints.remove(&awaited.sides.down());
        self.forget(&awaited);
        awaited.past()
    }

    pub(super) fn forget(&self, awaited: &Awaited) {
        let handshakes = self.opener.flows.handshakes();
        handshakes.forget(&awaited.sides.down(), Some(awaited.isn));
        self.opener.conntrack.forget(&awaited.sides);
    }
}

impl Opener {
    /// Whether this is still the client's connection, and it has not reset it. Where others needed its place,
    /// nothing is known that speaks against it, but for a later connection which another opener has opened.
    pub(super) fn is_there(&self, key: &FlowKey, opening: &Opening) -> bool {
        let isn = opening.start.wrapping_sub(ONE);
        match self.flows.handshakes().seen(key) {
            Some(seen) => seen.isn == isn && seen.flags & seen::RST == 0,
            None => self.flows.table().flow(key).is_none(),
        }
    }

    /// Makes a socket of what is known of a client, and gives the client back to the stack.
    fn accept(&self, key: &FlowKey, opening: &Opening) -> io::Result<TcpStream> {
        let (client, vip) = sides(key);
        let last = &opening.last;
        let passed = handshake::millis(now_ns()).wrapping_sub(last.since);
        let unaccepted = Unaccepted {
            local: vip,
            peer: client,
            seq: last.ack,
            ack: opening.start,
            segment: segment_of(opening.front.mtu, client.ip()).min(most_of(last.flags)),
            window: u32::from(last.window) << seen::scale(last.flags),
            peer_scale: seen::scale(last.flags),
            own_scale: opening.own_scale,
            clock: last.tsecr.wrapping_add(passed + 1),
        };
        self.conntrack.forget_client(client, vip);
        // What the client answers is for the socket.
        let isn = opening.start.wrapping_sub(ONE);
        let give_back = || self.flows.handshakes().give_back(key, Some(isn));
        let socket = repair::accept(&unaccepted, &opening.received, give_back)?;
        Ok(socket.into())
    }
}

/// How many attempts to make a socket there are after one that has failed like this.
fn attempts(error: &io::Error) -> u32 {
    match error.kind() {
        // The stack has not come to the RST yet, by which its own request ends. Its CPU may have other things to do.
        io::ErrorKind::AddrNotAvailable => PATIENCE,
        _ => 1,
    }
}

/// Longer than a packet takes from the program to the stack.
const A_MOMENT: Duration = Duration::from_millis(1);
/// So many moments are longer than most hypervisors take a CPU away.
const PATIENCE: u32 = 100;
