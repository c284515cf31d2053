//! Clients whose connections are being opened.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sni_router_common::flow::FlowKey;
use sni_router_common::taken::{Taken, kind};
use tokio::time::sleep_until;
use tracing::debug;

use super::super::known::{Front, Path};
use super::super::learn::SYN as ONE;
use super::super::sides::{Sides, sides};
use super::super::source::SourcePort;
use super::Opener;
use super::hellos::Hellos;
use super::masters::Masters;
use super::shares::Packet;
use super::sockets::Past;
use super::timers::Timers;
use crate::carry::{Guest, Welcome};

/// All connections that are being opened.
pub(super) struct Openings {
    pub(super) opener: Opener,
    /// By the key of the client's packets.
    pub(super) clients: HashMap<FlowKey, Opening>,
    /// By the key of the endpoint's: whose it is.
    pub(super) endpoints: HashMap<FlowKey, FlowKey>,
    pub(super) timers: Timers,
    pub(super) patience: Duration,
    pub(super) hellos: Hellos,
    pub(super) masters: Masters,
    pub(super) next: u64,
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
    /// The interface by which its packets reach the stack.
    pub(super) ifindex: u32,
    /// Among those who are saying hello, until that is whole.
    pub(super) place: Option<Box<dyn Send>>,
    pub(super) awaited: Option<Awaited>,
    /// Its socket could not be made yet.
    pub(super) stuck: Option<Past>,
}

impl Opening {
    /// Whether its hello is not whole yet.
    pub(super) fn is_gathering(&self) -> bool {
        self.awaited.is_none() && self.stuck.is_none()
    }
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

impl Awaited {
    pub(super) fn past(self) -> Past {
        Past {
            guest: Some(self.guest),
            asked: Some(self.since),
            failures: 0,
        }
    }
}

impl Openings {
    /// Of nobody yet.
    pub(super) fn new(opener: Opener) -> Self {
        Self {
            patience: opener.doorman.patience(),
            hellos: Hellos::default(),
            masters: Masters::default(),
            opener,
            clients: HashMap::new(),
            endpoints: HashMap::new(),
            timers: Timers::default(),
            next: 0,
        }
    }

    /// A packet was taken.
    pub(super) fn hear(&mut self, packet: Packet) {
        let Packet { taken, payload } = packet;
        let taken = &taken;
        match taken.kind {
            kind::FIRST => self.begin(taken, payload),
            kind::NEXT => self.go_on(taken, &payload),
            kind::ANSWER => self.answered(taken),
            kind::REFUSAL => self.refused(taken),
            _ => {}
        }
    }

    pub(super) fn begin(&mut self, taken: &Taken, payload: Vec<u8>) {
        let Some(front) = self.opener.known.front(taken.ifindex) else {
            debug!("a client was taken whose socket cannot be made");
            let before = Past::default().before(Instant::now());
            return self.fail(&taken.key, taken.seq.wrapping_sub(ONE), before);
        };
        let known = self.clients.get(&taken.key);
        if known.is_some_and(|it| it.start == taken.seq && it.last.since == taken.since) {
            // The same on two CPUs, at the same time.
            return;
        }
        let number = self.next;
        self.next += 1;
        let begun = Instant::now();
        let opening = Opening {
            number,
            begun,
            last: *taken,
            start: taken.seq,
            received: payload,
            pieces: 1,
            own_scale: taken.own_scale as i8,
            front,
            ifindex: taken.ifindex,
            place: None,
            awaited: None,
            stuck: None,
        };
        let deadline = (begun + self.patience, taken.key, number);
        // One that was here before is over: its client has begun anew.
        if let Some(before) = self.clients.insert(taken.key, opening) {
            self.lose(&taken.key, before);
        }
        self.timers.deadlines.push_back(deadline);
        let Opener { rank, common, .. } = &self.opener;
        let count = self.clients.len();
        if common
            .totals
            .exceed(*rank, count, MOST_OPENINGS, |has| has.openings)
        {
            return self.fall_back(taken.key);
        }
        self.judge(taken.key);
    }

    pub(super) fn go_on(&mut self, taken: &Taken, payload: &[u8]) {
        let opening = self.clients.get_mut(&taken.key);
        // Another opener may have had a later connection from the same port.
        let opening = opening.filter(|opening| opening.last.since == taken.since);
        let Some(opening) = opening else {
            // The program had read that this client is taken before it was given back, and written that again.
            let handshakes = self.opener.flows.handshakes();
            let seen = handshakes.seen(&taken.key);
            if let Some(seen) = seen.filter(|seen| seen.since == taken.since) {
                handshakes.give_back(&taken.key, Some(seen.isn));
            }
            return;
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
        } else if opening.is_gathering() {
            self.judge(taken.key);
        }
    }

    /// Finds out where a client goes, and sends a SYN there.
    pub(super) fn judge(&mut self, key: FlowKey) {
        let Some(opening) = self.clients.get_mut(&key) else {
            return;
        };
        let (client, vip) = sides(&key);
        let doorman = &self.opener.doorman;
        match doorman.judge(client, vip, &opening.received) {
            Welcome::More => {
                opening.place = opening.place.take().or_else(|| doorman.place());
                if opening.place.is_none() {
                    // Who has a socket is refused for that, and told.
                    self.fall_back(key);
                } else if opening.pieces == 1 {
                    let number = opening.number;
                    self.acknowledge_soon(key, number);
                }
            }
            Welcome::Socket => self.fall_back(key),
            Welcome::Endpoint(guest) => {
                opening.place = None;
                if let Err(guest) = self.send_syn(key, guest) {
                    let past = Past {
                        guest: Some(guest),
                        ..Past::default()
                    };
                    self.serve(key, past);
                }
            }
        }
    }

    /// When the next one is given up, or tried again; those that are open by now are passed over.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        let clients = &self.clients;
        let is_over = |(_, key, number): &mut (_, FlowKey, u64)| {
            let opening = clients.get(key);
            opening.is_none_or(|opening| opening.number != *number)
        };
        let queues = self.timers.all().into_iter();
        let next = queues.filter_map(|queue| {
            while queue.pop_front_if(is_over).is_some() {}
            queue.front().map(|(when, ..)| *when)
        });
        next.chain(self.hellos.next_look()).min()
    }

    /// Gives up those whose time is over: some of them, since others wait meanwhile.
    pub(super) fn expire(&mut self, now: Instant) {
        for _ in 0..AT_ONCE {
            if self.hellos.look(&self.opener, now) {
                continue;
            }
            if self.next_deadline().is_none_or(|when| when > now) {
                return;
            }
            let is_due = |(when, ..): &mut (Instant, FlowKey, u64)| *when <= now;
            if let Some((_, key, _)) = self.timers.repeats.pop_front_if(is_due) {
                self.send_syn_again(&key);
                continue;
            }
            let due = self.timers.retries.pop_front_if(is_due);
            let due = due.or_else(|| self.timers.deadlines.pop_front_if(is_due));
            if let Some((_, key, _)) = due {
                self.fall_back(key);
                continue;
            }
            // Last, since each is due again soon.
            if let Some((_, key, number)) = self.timers.parts.pop_front_if(is_due) {
                self.acknowledge(key, number);
            }
        }
    }

    pub(super) fn give_up(&mut self) {
        let keys: Vec<_> = self.clients.keys().copied().collect();
        keys.into_iter().for_each(|key| self.fall_back(key));
    }

    /// Waits until endpoints have the hellos that were sent.
    pub(super) async fn settle(&mut self) {
        while let Some(when) = self.hellos.next_look() {
            sleep_until(when.into()).await;
            while self.hellos.look(&self.opener, Instant::now()) {}
        }
    }
}

/// Openings that are given up before others have their turn.
const AT_ONCE: usize = 64;

/// More than a client sends at once, with a hello of the largest kind.
const MOST_RECEIVED: usize = 32 * 1024;

/// Each of them is looked at from the beginning; more is for who reads on where it was.
const MOST_PIECES: u32 = 16;

/// As many as connections may say hello with sockets, unless told otherwise.
const MOST_OPENINGS: usize = 16_384;
