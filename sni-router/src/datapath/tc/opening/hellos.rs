//! Hellos that endpoints have not acknowledged yet. What was judged is what has to arrive: until it has, the program
//! lets nothing through of what the client sends in its place, and it is this process that sends it again.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sni_router_common::flow::own;
use tracing::debug;

use super::super::limits::reset_both;
use super::super::segment::{ACK, PSH, Segment};
use super::super::sides::Sides;
use super::{FEW, Opener};
use crate::carry::End;

/// See the module.
#[derive(Default)]
pub(super) struct Hellos {
    /// When each is looked at next, the first one first.
    sent: VecDeque<(Instant, Sent)>,
    /// Of all of them.
    bytes: usize,
}

impl Hellos {
    /// Gives back what is not needed any more.
    pub(super) fn fit(&mut self) {
        self.sent.shrink_to(FEW);
    }
}

/// A hello that was sent.
struct Sent {
    hello: Hello,
    /// The flow's number.
    id: u32,
    /// How often it was looked at.
    looks: u32,
}

/// A hello, and how it is sent.
pub(super) struct Hello {
    pub(super) sides: Sides,
    /// The address that its port is bound to, or a wildcard.
    pub(super) from: IpAddr,
    /// Of its first byte.
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) window: u16,
    pub(super) clocks: [u32; 2],
    /// Bytes of a segment.
    pub(super) room: usize,
    pub(super) bytes: Vec<u8>,
}

impl Hello {
    /// Sends it, and has connection tracking forget that.
    pub(super) fn send(&self, opener: &Opener) {
        let mut at = self.seq;
        for piece in self.bytes.chunks(self.room) {
            let segment = Segment {
                from: self.sides.source,
                to: self.sides.endpoint,
                seq: at,
                ack: self.ack,
                flags: PSH | ACK,
                window: self.window,
                clocks: self.clocks,
                syn: None,
                payload: piece,
            };
            at = at.wrapping_add(piece.len() as u32);
            opener.send(&segment, &self.sides);
        }
        opener.conntrack.forget(&self.sides);
    }
}

impl Hellos {
    /// One was sent, of this flow.
    pub(super) fn push(&mut self, hello: Hello, id: u32) {
        self.bytes += hello.bytes.len();
        let sent = Sent {
            hello,
            id,
            looks: 0,
        };
        self.sent.push_back((Instant::now() + LOOK, sent));
    }

    /// How many bytes they have.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When to look next: a little later than the first one is due, so that many are looked at at once.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.sent.front().map(|(when, _)| *when + TOGETHER)
    }

    /// Looks at the first one, if it is due, and sends it again where the endpoint has not acknowledged it. False if
    /// none is due.
    pub(super) fn look(&mut self, opener: &Opener, now: Instant) -> bool {
        let is_due = |(when, _): &mut (Instant, Sent)| *when <= now;
        let Some((_, mut sent)) = self.sent.pop_front_if(is_due) else {
            return false;
        };
        if !is_unacknowledged(opener, &sent) {
            self.bytes -= sent.hello.bytes.len();
            return true;
        }
        sent.looks += 1;
        let are_many = || {
            let Opener { rank, common, .. } = opener;
            common
                .totals
                .exceed(*rank, self.bytes, MOST_BYTES, |has| has.bytes)
        };
        if sent.looks > MOST_LOOKS || are_many() {
            debug!(endpoint = %sent.hello.sides.endpoint, "a hello was not acknowledged");
            self.bytes -= sent.hello.bytes.len();
            end(opener, &sent);
            return true;
        }
        // After twice the time each time, as TCP does.
        if sent.looks.is_power_of_two() {
            // The path may take less than it was known to. The next connection finds out with sockets.
            sent.hello.room = (sent.hello.room / 2).max(LEAST_ROOM).min(sent.hello.room);
            let Hello { from, sides, .. } = &sent.hello;
            opener.known.forget(*from, sides.endpoint);
            sent.hello.send(opener);
        }
        self.sent.push_back((now + LOOK, sent));
        true
    }
}

/// Whether the flow lives, and its endpoint has not acknowledged the hello.
fn is_unacknowledged(opener: &Opener, sent: &Sent) -> bool {
    let down = opener.flows.table().flow(&sent.hello.sides.down());
    down.is_some_and(|down| down.id == sent.id && down.closed == 0 && down.own & own::GUARDED != 0)
}

/// Ends a flow, also if it was left to the next router.
fn end(opener: &Opener, sent: &Sent) {
    let registry = &opener.registry;
    registry.end(sent.id, End::Failed);
    let sides = &sent.hello.sides;
    let keys = [sides.up(), sides.down()];
    if let [Some(up), Some(down)] = registry.both(sent.id, &keys) {
        keys.iter().for_each(|key| opener.flows.table().remove(key));
        reset_both(&up, &down);
    }
}

/// How long after a hello it is looked whether it has arrived: as long as TCP waits at least.
const LOOK: Duration = Duration::from_millis(200);

/// How much later that may be.
const TOGETHER: Duration = Duration::from_millis(20);

/// So often: 13 seconds.
const MOST_LOOKS: u32 = 64;

/// Every path takes that, with headers (RFC 9293, section 3.7.1).
const LEAST_ROOM: usize = 512;

/// Of all hellos: more are of endpoints that shake hands and do not listen.
const MOST_BYTES: usize = 64 << 20;
