//! Which of our ports has a connection to which endpoint.
//!
//! The kernel chooses a port that no socket of this host uses towards the endpoint; of flows,
//! which have no socket, it knows nothing. So their ports come from a range that the kernel does
//! not choose from, and this table owns it:
//!
//! ```text
//! free ──take──▶ held ──release (nothing was ever sent)──▶ free
//!                  └───linger (a connection was there)───▶ lingering ──65 s, or needed──▶ free
//! ```

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The table. A port is one connection's per endpoint, from whatever address of ours: that is
/// only known once the connection is there.
pub struct Ports {
    range: RangeInclusive<u16>,
    endpoints: Mutex<HashMap<SocketAddr, Endpoint>>,
    random: RandomState,
}

/// A port that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) port: u16,
    /// It was still lingering: what is left of the connection before has to go first.
    pub(super) was_lingering: bool,
}

/// The ports of one endpoint.
struct Endpoint {
    /// A bit for each port of the range: held or lingering. 2.5 KB for 20,000 ports.
    used: Vec<u64>,
    /// How many bits are set.
    in_use: u32,
    /// Since when, the longest first.
    lingering: VecDeque<(u16, Instant)>,
    /// Where to look next. A walk in steps that have no divisor in common with the range visits
    /// every port before it comes back to the first, so a port rests long; where it
    /// starts and how far it steps nobody outside knows (RFC 6056, section 3.3).
    next: u32,
    step: u32,
}

impl Ports {
    /// Of a range that is ours.
    pub fn new(range: RangeInclusive<u16>) -> Self {
        Self {
            range,
            endpoints: Mutex::default(),
            random: RandomState::new(),
        }
    }

    /// A port that has no connection to this endpoint; `None` if all have.
    pub(super) fn take(&self, to: SocketAddr, now: Instant) -> Option<Taken> {
        let (first, count) = (*self.range.start(), self.count());
        let mut endpoints = self.endpoints();
        let endpoint = endpoints
            .entry(to)
            .or_insert_with(|| Endpoint::new(self.random.hash_one((to, now)), count));
        endpoint.expire(first, now);
        if let Some(index) = endpoint.free(count) {
            endpoint.set(index);
            return Some(Taken {
                port: first + index as u16,
                was_lingering: false,
            });
        }
        let rested = |(_, since): &mut (u16, Instant)| now.duration_since(*since) >= LEAST_REST;
        let (port, _) = endpoint.lingering.pop_front_if(rested)?;
        Some(Taken {
            port,
            was_lingering: true,
        })
    }

    /// Marks a port as taken whose connection is older than this table.
    pub(super) fn hold(&self, to: SocketAddr, port: u16) {
        let (first, count) = (*self.range.start(), self.count());
        if !self.range.contains(&port) {
            return;
        }
        let mut endpoints = self.endpoints();
        let endpoint = endpoints
            .entry(to)
            .or_insert_with(|| Endpoint::new(self.random.hash_one(to), count));
        endpoint.set((port - first).into());
    }

    /// Gives a port back that the endpoint never heard of.
    pub(super) fn release(&self, to: SocketAddr, port: u16) {
        if !self.range.contains(&port) {
            return;
        }
        let mut endpoints = self.endpoints();
        if let Some(endpoint) = endpoints.get_mut(&to) {
            endpoint.clear((port - self.range.start()).into());
            if endpoint.in_use == 0 {
                endpoints.remove(&to);
            }
        }
    }

    /// Gives a port back whose connection the endpoint may still remember.
    pub(super) fn linger(&self, to: SocketAddr, port: u16, now: Instant) {
        // A flow that was adopted may have a port of another range.
        if !self.range.contains(&port) {
            return;
        }
        if let Some(endpoint) = self.endpoints().get_mut(&to) {
            endpoint.lingering.push_back((port, now));
        }
    }

    /// Forgets what has lingered long enough, and endpoints without a port in use.
    pub(super) fn sweep(&self, now: Instant) {
        self.endpoints().retain(|_, endpoint| {
            endpoint.expire(*self.range.start(), now);
            endpoint.in_use > 0
        });
    }

    fn count(&self) -> u32 {
        u32::from(*self.range.end()) - u32::from(*self.range.start()) + 1
    }

    /// A thread that panicked while holding it leaves it as good as it was.
    fn endpoints(&self) -> MutexGuard<'_, HashMap<SocketAddr, Endpoint>> {
        self.endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Endpoint {
    fn new(seed: u64, count: u32) -> Self {
        let mut step = (seed >> 32) as u32 % count;
        while gcd(step, count) != 1 {
            step = (step + 1) % count.max(2);
        }
        Self {
            used: vec![0; count.div_ceil(WORD) as usize],
            in_use: 0,
            lingering: VecDeque::new(),
            next: seed as u32 % count,
            step,
        }
    }

    /// Some free port, as its number in the range: the next of the walk, or, where the walk meets
    /// only used ones, the first there is.
    fn free(&mut self, count: u32) -> Option<u32> {
        if self.in_use == count {
            return None;
        }
        for _ in 0..STEPS {
            let index = self.next;
            self.next = (self.next + self.step) % count;
            if self.used[(index / WORD) as usize] & (1 << (index % WORD)) == 0 {
                return Some(index);
            }
        }
        let free = |(at, word): (usize, &u64)| {
            let index = at as u32 * WORD + word.trailing_ones();
            (*word != u64::MAX && index < count).then_some(index)
        };
        self.used.iter().enumerate().find_map(free)
    }

    fn set(&mut self, index: u32) {
        let (word, bit) = (&mut self.used[(index / WORD) as usize], 1 << (index % WORD));
        self.in_use += u32::from(*word & bit == 0);
        *word |= bit;
    }

    fn clear(&mut self, index: u32) {
        let (word, bit) = (&mut self.used[(index / WORD) as usize], 1 << (index % WORD));
        self.in_use -= u32::from(*word & bit != 0);
        *word &= !bit;
    }

    fn expire(&mut self, first: u16, now: Instant) {
        let is_over = |(_, since): &mut (u16, Instant)| now.duration_since(*since) >= LINGER;
        while let Some((port, _)) = self.lingering.pop_front_if(is_over) {
            self.clear((port - first).into());
        }
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Bits of a word.
const WORD: u32 = u64::BITS;

/// How far the walk goes for a port.
const STEPS: usize = 16;

/// A little longer than the entries of a flow linger in the table.
pub(super) const LINGER: Duration = Duration::from_secs(65);

/// As long as the kernel waits before it uses a port in TIME_WAIT again (tcp_twsk_unique,
/// net/ipv4/tcp_ipv4.c): by then timestamps have moved on.
const LEAST_REST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const TO: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    #[test]
    fn every_port_is_given_out_once_and_then_none() {
        for count in [1, 2, 3, 7, 10, 1000] {
            let ports = Ports::new(2000..=2000 + count - 1);
            let now = Instant::now();
            let all: HashSet<_> = (0..count)
                .map(|_| ports.take(TO, now).expect("a free port").port)
                .collect();
            assert_eq!(all, (2000..2000 + count).collect());
            assert_eq!(ports.take(TO, now), None);
            let other = SocketAddr::new(TO.ip(), 2);
            assert!(ports.take(other, now).is_some(), "another endpoint");
        }
    }

    #[test]
    fn a_released_port_is_free_at_once() {
        let ports = Ports::new(5..=5);
        let now = Instant::now();
        let taken = ports.take(TO, now).expect("a free port");
        ports.release(TO, taken.port);
        let again = ports.take(TO, now).expect("it is free again");
        assert_eq!((again.port, again.was_lingering), (5, false));
    }

    #[test]
    fn a_lingering_port_is_given_out_when_it_is_needed_but_not_at_once() {
        let ports = Ports::new(5..=6);
        let start = Instant::now();
        let first = ports.take(TO, start).expect("a free port").port;
        ports.linger(TO, first, start);
        let second = ports.take(TO, start).expect("the other one");
        assert_ne!(second.port, first);
        assert_eq!(ports.take(TO, start), None, "it has hardly rested");
        let third = ports.take(TO, start + LEAST_REST).expect("it has rested");
        assert_eq!((third.port, third.was_lingering), (first, true));
    }

    #[test]
    fn what_has_lingered_is_free_and_leaves_nothing_behind() {
        let ports = Ports::new(5..=5);
        let start = Instant::now();
        let port = ports.take(TO, start).expect("a free port").port;
        ports.linger(TO, port, start);
        let again = ports.take(TO, start + LINGER).expect("it is over");
        assert!(!again.was_lingering);
        ports.linger(TO, again.port, start + LINGER);
        ports.sweep(start + LINGER * 2);
        assert!(ports.endpoints().is_empty());
    }
}
