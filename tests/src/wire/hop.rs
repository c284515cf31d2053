//! The thread in the middle of a wire.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::device::Layer;
use super::packet::{self, Seen};
use super::{Rates, Shared, Side};
use crate::bulk::Random;
use crate::packet::{tagged, untagged};

/// Moves packets between two devices, one for each side.
pub(super) struct Hop {
    pub(super) devices: [File; 2],
    pub(super) layer: Layer,
    pub(super) subnet: u8,
    pub(super) shared: Arc<Shared>,
    pub(super) random: Random,
    pub(super) late: BinaryHeap<Late>,
    /// How many packets have ever been late.
    pub(super) order: u64,
}

/// A packet that waits for its time: the first one is the next that leaves.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Late {
    due: Reverse<(Instant, u64)>,
    to: usize,
    frame: Vec<u8>,
}

impl Hop {
    /// Works until the other end of `stop` is closed.
    pub(super) fn run(mut self, stop: &UnixStream) {
        let mut buffer = vec![0; LONGEST];
        loop {
            self.release();
            if self.wait(stop) {
                return;
            }
            for from in [0, 1] {
                // Neither side may keep the other one, or what is late, waiting.
                for _ in 0..BURST {
                    let Ok(len) = (&self.devices[from]).read(&mut buffer) else {
                        break;
                    };
                    match (self.shared.tag(), from) {
                        (Some(control), ROUTER) => {
                            if let Some(frame) = untagged(&buffer[..len], control) {
                                self.take(from, &frame);
                            }
                        }
                        _ => self.take(from, &buffer[..len]),
                    }
                }
            }
        }
    }

    /// Waits for something to do; true if there is nothing more to do.
    fn wait(&self, stop: &UnixStream) -> bool {
        let mut polled = [
            PollFd::new(&self.devices[0], PollFlags::IN),
            PollFd::new(&self.devices[1], PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        let due = self.late.peek().map(|late| late.due.0.0);
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec::try_from(left).expect("less than a century"));
        // An interrupted call is one that found nothing.
        let _ = poll(&mut polled, left.as_ref());
        !polled[2].revents().is_empty()
    }

    /// Sends what has been late for long enough.
    fn release(&mut self) {
        let now = Instant::now();
        while self.late.peek().is_some_and(|late| late.due.0.0 <= now) {
            if let Some(Late { to, frame, .. }) = self.late.pop() {
                self.send(to, &frame);
            }
        }
    }

    /// Does to a packet of one side what is to be done in its direction.
    fn take(&mut self, from: usize, frame: &[u8]) {
        let Some(seen) = packet::parse(frame, self.layer) else {
            return self.send(1 - from, frame);
        };
        let rates = self.shared.rates(from);
        let mtu = self.shared.mtu();
        let mut done = Rates::default();
        if frame.len() - seen.network > mtu.into() {
            self.shared.lock().too_big += 1;
            if !seen.has_no_df {
                let answer = packet::too_big(frame, seen, mtu, self.subnet);
                self.send(from, &answer);
            }
            return;
        }
        if self.happens(rates.loss) {
            done.loss = 1;
        } else {
            self.impair(from, frame, seen, rates, &mut done);
        }
        self.shared.count(from, &done);
    }

    fn impair(&mut self, from: usize, frame: &[u8], seen: Seen, rates: Rates, done: &mut Rates) {
        let mut frame = frame.to_vec();
        if self.happens(rates.corruption) {
            done.corruption = 1;
            self.flip_a_bit(&mut frame[seen.network..]);
        }
        if self.happens(rates.truncation) {
            done.truncation = 1;
            let ip = frame.len() - seen.network;
            // At least a byte is left, and one is gone.
            let left = 1 + self.random.below(ip as u64 - 1) as usize;
            frame.truncate(seen.network + left);
        }
        if self.happens(rates.duplication) {
            done.duplication = 1;
            self.pass(from, frame.clone(), rates, done);
        }
        self.pass(from, frame, rates, done);
    }

    /// Every second time among the headers, where it matters most: most bits of a packet are
    /// payload.
    fn flip_a_bit(&mut self, ip: &mut [u8]) {
        let among = if self.random.below(2) == 0 {
            ip.len()
        } else {
            ip.len().min(HEADERS)
        };
        let bit = self.random.below(8 * among as u64) as usize;
        ip[bit / 8] ^= 1 << (bit % 8);
    }

    /// Sends a packet, now or when it is time.
    fn pass(&mut self, from: usize, frame: Vec<u8>, rates: Rates, done: &mut Rates) {
        let mut delay = rates.delay;
        if self.happens(rates.reordering) {
            done.reordering = 1;
            delay += Duration::from_micros(1 + self.random.below(OVERTAKEN_MICROS));
        }
        if delay.is_zero() {
            return self.send(1 - from, &frame);
        }
        self.order += 1;
        let late = Late {
            due: Reverse((Instant::now() + delay, self.order)),
            to: 1 - from,
            frame,
        };
        self.late.push(late);
    }

    /// What the kernel does not take is lost: a device that is down, a frame that is too short.
    fn send(&self, to: usize, frame: &[u8]) {
        let with_tag;
        let frame = match (self.shared.tag(), to) {
            (Some(control), ROUTER) => {
                with_tag = tagged(frame, control);
                &with_tag
            }
            _ => frame,
        };
        let _ = (&self.devices[to]).write(frame);
    }

    fn happens(&mut self, per_mille: u32) -> bool {
        per_mille != 0 && self.random.below(1000) < per_mille.into()
    }
}

const ROUTER: usize = Side::Router as usize;

/// An IP packet of the largest size, its Ethernet header, and a tag.
const LONGEST: usize = 65_535 + 14 + 4;

const BURST: usize = 64;

/// A packet that is overtaken is late by up to this, in which a busy stream sends dozens.
const OVERTAKEN_MICROS: u64 = 300;

/// IPv6 and TCP headers with timestamps.
const HEADERS: usize = 72;
