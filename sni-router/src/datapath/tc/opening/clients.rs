//! Clients whose connections are being opened.

use std::collections::{HashMap, VecDeque};
use std::hash::RandomState;
use std::io;
use std::net::{IpAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use sni_router_common::flow::FlowKey;
use sni_router_common::handshake::{self, seen};
use sni_router_common::taken::{Taken, kind};
use tracing::debug;

use super::super::known::{Front, Path};
use super::super::learn::Sides;
use super::super::registry::sides;
use super::super::source::SourcePort;
use super::Opener;
use super::balance::Balance;
use super::sizes::{most_of, segment_of};
use crate::carry::{Guest, Welcome};
use crate::monotonic::now_ns;
use crate::sys::repair::{self, Unaccepted};

/// All connections that are being opened.
pub(super) struct Openings {
    pub(super) opener: Opener,
    /// By the key of the client's packets.
    pub(super) clients: HashMap<FlowKey, Opening>,
    /// By the key of the endpoint's: whose it is.
    pub(super) endpoints: HashMap<FlowKey, FlowKey>,
    /// When each is given up, the first one first, and its number.
    pub(super) deadlines: VecDeque<(Instant, FlowKey, u64)>,
    pub(super) next: u64,
    pub(super) balance: Balance,
    pub(super) random: RandomState,
}

/// One of them.
pub(super) struct Opening {
    pub(super) number: u64,
    pub(super) begun: Instant,
    /// The client's last packet. Its first one has the same flags.
    pub(super) last: Taken,
    /// The sequence number of its first byte.
    pub(super) start: u32,
    pub(super) received: Vec<u8>,
    /// In so many packets.
    pub(super) pieces: u32,
    /// By how many bits this host's windows to it are scaled.
    pub(super) own_scale: i8,
    pub(super) front: Front,
    pub(super) awaited: Option<Awaited>,
}

/// An endpoint that was sent a SYN.
pub(super) struct Awaited {
    pub(super) guest: Box<dyn Guest>,
    /// Until it is the flow's.
    pub(super) source: Option<SourcePort>,
    /// The address that it is bound to, or a wildcard.
    pub(super) from: IpAddr,
    pub(super) sides: Sides,
    pub(super) path: Path,
    /// The number of the SYN.
    pub(super) isn: u32,
    /// Added to the client's timestamps.
    pub(super) clock: u32,
    pub(super) since: Instant,
}

impl Openings {
    /// Of nobody yet.
    pub(super) fn new(opener: Opener) -> Self {
        Self {
            opener,
            clients: HashMap::new(),
            endpoints: HashMap::new(),
            deadlines: VecDeque::new(),
            next: 0,
            balance: Balance::default(),
            random: RandomState::new(),
        }
    }

    /// A packet was taken.
    pub(super) fn hear(&mut self, taken: &Taken, payload: &[u8]) {
        let payload = payload.get(..taken.len.into()).unwrap_or_default();
        match taken.kind {
            kind::FIRST => self.begin(taken, payload),
            kind::NEXT => self.go_on(taken, payload),
            kind::ANSWER => self.answered(taken),
            kind::REFUSAL => self.refused(taken),
            _ => {}
        }
    }

    pub(super) fn begin(&mut self, taken: &Taken, payload: &[u8]) {
        let Some(front) = self.opener.known.front(taken.ifindex) else {
            debug!("a client was taken whose socket cannot be made");
            return self.fail(&taken.key, Instant::now(), None);
        };
        let number = self.next;
        self.next += 1;
        let begun = Instant::now();
        let opening = Opening {
            number,
            begun,
            last: *taken,
            start: taken.seq,
            received: payload.to_vec(),
            pieces: 1,
            own_scale: taken.own_scale as i8,
            front,
            awaited: None,
        };
        let deadline = (begun + PATIENCE, taken.key, number);
        // One that was here before is over: its client has begun anew.
        if let Some(before) = self.clients.insert(taken.key, opening) {
            self.drop_awaited(before.awaited);
        }
        self.deadlines.push_back(deadline);
        if self.clients.len() > MOST_OPENINGS {
            return self.fall_back(taken.key);
        }
        self.judge(taken.key);
    }

    pub(super) fn go_on(&mut self, taken: &Taken, payload: &[u8]) {
        let Some(opening) = self.clients.get_mut(&taken.key) else {
            // The program had read that this client is taken before it was given back, and written that again.
            return self.opener.flows.handshakes().give_back(&taken.key);
        };
        let end = opening.start.wrapping_add(opening.received.len() as u32);
        if taken.seq != end {
            return;
        }
        opening.received.extend_from_slice(payload);
        opening.last = *taken;
        opening.pieces += 1;
        if opening.received.len() > MOST_RECEIVED || opening.pieces > MOST_PIECES {
            self.fall_back(taken.key);
        } else if opening.awaited.is_none() {
            self.judge(taken.key);
        }
    }

    /// Finds out where a client goes, and sends a SYN there.
    pub(super) fn judge(&mut self, key: FlowKey) {
        let Some(opening) = self.clients.get(&key) else {
            return;
        };
        let (client, vip) = sides(&key);
        match self.opener.doorman.judge(client, vip, &opening.received) {
            Welcome::More => {}
            Welcome::Socket => self.fall_back(key),
            Welcome::Endpoint(guest) => {
                if let Err(guest) = self.send_syn(key, guest) {
                    self.serve(key, Some(guest));
                }
            }
        }
    }

    /// When the next one is given up; those that are open by now are passed over.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        let clients = &self.clients;
        let is_over = |(_, key, number): &mut (_, FlowKey, u64)| {
            let opening = clients.get(key);
            opening.is_none_or(|opening| opening.number != *number)
        };
        while self.deadlines.pop_front_if(is_over).is_some() {}
        self.deadlines.front().map(|(when, ..)| *when)
    }

    /// Gives up those whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.next_deadline().is_some_and(|when| when <= now) {
            if let Some((_, key, _)) = self.deadlines.pop_front() {
                self.fall_back(key);
            }
        }
    }

    pub(super) fn give_up(&mut self) {
        let keys: Vec<_> = self.clients.keys().copied().collect();
        keys.into_iter().for_each(|key| self.fall_back(key));
    }

    /// Serves a client by a socket, whatever has become of it so far.
    pub(super) fn fall_back(&mut self, key: FlowKey) {
        let opening = self.clients.get_mut(&key);
        let awaited = opening.and_then(|opening| opening.awaited.take());
        if let Some(awaited) = &awaited {
            // Whatever is the matter, the next one finds out with a socket.
            self.opener
                .known
                .forget(awaited.from, awaited.sides.endpoint);
        }
        let guest = self.drop_awaited(awaited);
        self.serve(key, guest);
    }

    /// Makes a socket for a client.
    pub(super) fn serve(&mut self, key: FlowKey, guest: Option<Box<dyn Guest>>) {
        let Some(opening) = self.clients.remove(&key) else {
            return;
        };
        let (client, vip) = sides(&key);
        let last = &opening.last;
        let passed = handshake::millis(now_ns()).wrapping_sub(last.since);
        let segment = segment_of(opening.front.mtu, client.ip()).min(most_of(last.flags));
        let unaccepted = Unaccepted {
            local: vip,
            peer: client,
            seq: last.ack,
            ack: opening.start,
            segment,
            window: u32::from(last.window) << seen::scale(last.flags),
            peer_scale: seen::scale(last.flags),
            own_scale: opening.own_scale,
            clock: last.tsecr.wrapping_add(passed + 1),
        };
        self.opener.conntrack.forget_client(client, vip);
        // What the client answers is for the socket.
        let give_back = || self.opener.flows.handshakes().give_back(&key);
        let accept = || repair::accept(&unaccepted, &opening.received, give_back);
        // The stack may not have come to the RST yet, by which its own request ends.
        let socket = accept().or_else(|error| match error.kind() {
            io::ErrorKind::AddrNotAvailable => {
                sleep(A_MOMENT);
                accept()
            }
            _ => Err(error),
        });
        match socket {
            Ok(socket) => {
                let socket = TcpStream::from(socket);
                self.opener.doorman.serve(socket, client, guest);
            }
            Err(error) => {
                debug!(%error, %client, "a socket could not be made");
                self.fail(&key, opening.begun, guest);
            }
        }
        if self.balance.fell_back() {
            debug!("most clients need sockets: for a while all get them");
            self.opener.known.pause();
        }
    }

    /// Of no use to a client: what it sends again the stack answers with a RST.
    fn fail(&self, key: &FlowKey, begun: Instant, guest: Option<Box<dyn Guest>>) {
        self.opener.flows.handshakes().forget(key, None);
        let (client, vip) = sides(key);
        self.opener.doorman.failed(client, vip, begun, guest);
    }

    pub(super) fn drop_awaited(&mut self, awaited: Option<Awaited>) -> Option<Box<dyn Guest>> {
        let awaited = awaited?;
        self.endpoints.remove(&awaited.sides.down());
        self.forget(&awaited);
        Some(awaited.guest)
    }

    pub(super) fn forget(&self, awaited: &Awaited) {
        let handshakes = self.opener.flows.handshakes();
        handshakes.forget(&awaited.sides.down(), Some(awaited.isn));
        self.opener.conntrack.forget(&awaited.sides);
    }
}

/// Longer than a packet takes from the program to the stack.
const A_MOMENT: Duration = Duration::from_millis(1);

/// How long a connection may take to be open.
const PATIENCE: Duration = Duration::from_secs(1);

/// More than a client sends at once, with a hello of the largest kind.
const MOST_RECEIVED: usize = 32 * 1024;

/// Each of them is looked at from the beginning; more is for who reads on where it was.
const MOST_PIECES: u32 = 16;

/// As many as connections may say hello with sockets, unless told otherwise.
const MOST_OPENINGS: usize = 16_384;
