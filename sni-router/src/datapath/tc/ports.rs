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
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sni_router_common::flow::FlowKey;

use super::sides::sides;

/// The table. A port is one connection's per endpoint and address of ours. Where we were given none,
/// it is one connection's per endpoint: from which address is only known once the connection is
/// there.
pub struct Ports {
    range: RangeInclusive<u16>,
    sources: Vec<IpAddr>,
    /// How many have asked; each begins with another source.
    asked: AtomicUsize,
    lines: Mutex<HashMap<Line, Pool>>,
    random: RandomState,
}

/// From which address of ours, which is a wildcard where the kernel chooses it, to which endpoint.
type Line = (IpAddr, SocketAddr);

/// A port of ours, which belongs to one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Port {
    /// The address that it is bound to, or a wildcard.
    pub(super) from: IpAddr,
    /// The endpoint.
    pub(super) to: SocketAddr,
    pub(super) number: u16,
}

/// A port that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) port: Port,
    /// It was still lingering: what is left of the connection before has to go first.
    pub(super) was_lingering: bool,
}

/// The ports of one line.
struct Pool {
    /// A bit for each port of the range: held or lingering. 2.5 KB for 20,000 ports.
    used: Vec<u64>,
    /// How many bits are set.
    in_use: u32,
    /// Since when, the longest first; each port once, or the second time would free it under another connection.
    lingering: VecDeque<(u16, Instant)>,
    /// A bit for each port in there.
    lingers: Vec<u64>,
    /// Where to look next. A walk in steps that have no divisor in common with the range visits
    /// every port before it comes back to the first, so a port rests long; where it
    /// starts and how far it steps nobody outside knows (RFC 6056, section 3.3).
    next: u32,
    step: u32,
}

impl Ports {
    /// Of a range that is ours, on these addresses of ours; on any if there are none.
    pub fn new(range: RangeInclusive<u16>, sources: &[IpAddr]) -> Self {
        Self {
            range,
            sources: sources.iter().map(IpAddr::to_canonical).collect(),
            asked: AtomicUsize::new(0),
            lines: Mutex::default(),
            random: RandomState::new(),
        }
    }

    /// The port of a connection between these two.
    pub(super) fn port(&self, source: SocketAddr, endpoint: SocketAddr) -> Port {
        let from = if self.sources.is_empty() {
            wildcard(endpoint)
        } else {
            source.ip()
        };
        Port {
            from,
            to: endpoint,
            number: source.port(),
        }
    }

    /// The port of a flow with this key of its endpoint's direction.
    pub(super) fn of(&self, down: &FlowKey) -> Port {
        let (endpoint, source) = sides(down);
        self.port(source, endpoint)
    }

    /// A port that has no connection to this endpoint, of an address, or a wildcard, that is good for it; `None` if
    /// all have.
    pub(super) fn take_from(
        &self,
        to: SocketAddr,
        now: Instant,
        is_good: impl Fn(IpAddr) -> bool,
    ) -> Option<Taken> {
        let count = self.count();
        let mut lines = self.lines();
        let froms = self.froms(to).filter(|from| is_good(*from));
        for from in froms.clone() {
            let pool = self.pool(&mut lines, (from, to));
            pool.expire(*self.range.start(), now);
            if let Some(index) = pool.free(count) {
                pool.set(index);
                let number = self.range.start() + index as u16;
                let port = Port { from, to, number };
                return Some(Taken {
                    port,
                    was_lingering: false,
                });
            }
        }
        froms.into_iter().find_map(|from| {
            let pool = lines.get_mut(&(from, to))?;
            let number = pool.rested(*self.range.start(), LEAST_REST, now)?;
            let port = Port { from, to, number };
            Some(Taken {
                port,
                was_lingering: true,
            })
        })
    }

    /// Where connections to this endpoint may come from, in the order to try.
    fn froms(&self, to: SocketAddr) -> impl Iterator<Item = IpAddr> + Clone {
        let any = self.sources.is_empty().then(|| wildcard(to));
        let alike = |source: &&IpAddr| source.is_ipv4() == to.is_ipv4();
        let count = self.sources.iter().filter(alike).count();
        let first = self.asked.fetch_add(1, Ordering::Relaxed) % count.max(1);
        let sources = self
            .sources
            .iter()
            .filter(move |source| source.is_ipv4() == to.is_ipv4());
        let rotated = sources.copied().cycle().skip(first).take(count);
        any.into_iter().chain(rotated)
    }

    /// Marks a port as taken whose connection is older than this table, also if it was said to linger.
    pub(super) fn hold(&self, port: Port) {
        if let Some(index) = self.index(port) {
            let mut lines = self.lines();
            let pool = self.pool(&mut lines, (port.from, port.to));
            pool.set(index);
            if unmark(&mut pool.lingers, index) {
                pool.lingering.retain(|(number, _)| *number != port.number);
            }
        }
    }

    /// Gives a port back that the endpoint never heard of.
    pub(super) fn release(&self, port: Port) {
        let line = (port.from, port.to);
        let mut lines = self.lines();
        if let (Some(index), Some(pool)) = (self.index(port), lines.get_mut(&line)) {
            pool.clear(index);
            if pool.in_use == 0 {
                lines.remove(&line);
            }
        }
    }

    /// Gives a port back whose connection the endpoint may still remember.
    pub(super) fn linger(&self, port: Port, now: Instant) {
        let mut lines = self.lines();
        let pool = lines.get_mut(&(port.from, port.to));
        if let (Some(index), Some(pool)) = (self.index(port), pool)
            && mark(&mut pool.lingers, index)
        {
            pool.lingering.push_back((port.number, now));
        }
    }

    /// Forgets what has lingered long enough, and lines without a port in use.
    pub(super) fn sweep(&self, now: Instant) {
        self.lines().retain(|_, pool| {
            pool.expire(*self.range.start(), now);
            pool.in_use > 0
        });
    }

    /// Whether a port of this number is one of the range.
    pub(super) fn has(&self, number: u16) -> bool {
        self.range.contains(&number)
    }

    fn count(&self) -> u32 {
        u32::from(*self.range.end()) - u32::from(*self.range.start()) + 1
    }

    /// The number of a port in the range; `None` for one of a flow that was adopted, and is of
    /// another range.
    fn index(&self, port: Port) -> Option<u32> {
        self.has(port.number)
            .then(|| (port.number - self.range.start()).into())
    }

    fn pool<'l>(&self, lines: &'l mut HashMap<Line, Pool>, line: Line) -> &'l mut Pool {
        let count = self.count();
        lines
            .entry(line)
            .or_insert_with(|| Pool::new(self.random.hash_one((line, Instant::now())), count))
    }

    /// A thread that panicked while holding it leaves it as good as it was.
    fn lines(&self) -> MutexGuard<'_, HashMap<Line, Pool>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wildcard(to: SocketAddr) -> IpAddr {
    match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

impl Pool {
    fn new(seed: u64, count: u32) -> Self {
        let mut step = (seed >> 32) as u32 % count;
        while gcd(step, count) != 1 {
            step = (step + 1) % count.max(2);
        }
        Self {
            used: vec![0; count.div_ceil(WORD) as usize],
            in_use: 0,
            lingering: VecDeque::new(),
            lingers: vec![0; count.div_ceil(WORD) as usize],
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
        self.in_use += u32::from(mark(&mut self.used, index));
    }

    fn clear(&mut self, index: u32) {
        self.in_use -= u32::from(unmark(&mut self.used, index));
    }

    /// The one that has lingered longest, if that is so long; it does not any more.
    fn rested(&mut self, first: u16, long: Duration, now: Instant) -> Option<u16> {
        let is_over = |(_, since): &mut (u16, Instant)| now.duration_since(*since) >= long;
        let (port, _) = self.lingering.pop_front_if(is_over)?;
        unmark(&mut self.lingers, (port - first).into());
        Some(port)
    }

    fn expire(&mut self, first: u16, now: Instant) {
        while let Some(port) = self.rested(first, LINGER, now) {
            self.clear((port - first).into());
        }
    }
}

/// Sets a bit; whether it was not set.
fn mark(bits: &mut [u64], index: u32) -> bool {
    let (word, bit) = (&mut bits[(index / WORD) as usize], 1 << (index % WORD));
    let is_new = *word & bit == 0;
    *word |= bit;
    is_new
}

/// Takes a bit back; whether it was set.
fn unmark(bits: &mut [u64], index: u32) -> bool {
    let (word, bit) = (&mut bits[(index / WORD) as usize], 1 << (index % WORD));
    let was_set = *word & bit != 0;
    *word &= !bit;
    was_set
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
mod tests;
