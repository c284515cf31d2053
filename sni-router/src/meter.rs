//! Bytes that this process has moved, added up while connections live.
//!
//! Those that the kernel moves are counted by its programs; a byte is counted in one of the two
//! places, once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::carry::{Direction, Kind};

/// See the module. Clones count together.
#[derive(Clone, Debug)]
pub struct Meter(Arc<[Shard]>);

/// What some of the threads have counted, in cache lines of its own: adjacent ones are fetched in
/// pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard([[AtomicU64; 2]; Kind::ALL.len()]);

impl Meter {
    /// One that `threads` threads use without slowing each other down.
    pub fn new(threads: usize) -> Self {
        Self((0..threads.max(1)).map(|_| Shard::default()).collect())
    }

    /// `bytes` of connections of a datapath went in this direction.
    pub fn add(&self, kind: Kind, direction: Direction, bytes: u64) {
        let Shard(counts) = &self.0[thread_number() % self.0.len()];
        counts[kind as usize][direction as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// All bytes so far.
    pub fn total(&self, kind: Kind, direction: Direction) -> u64 {
        let shards = self.0.iter();
        shards
            .map(|Shard(counts)| counts[kind as usize][direction as usize].load(Ordering::Relaxed))
            .sum()
    }
}

/// Threads are numbered as they first count something.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_when_more_threads_count_than_expected() {
        let meter = Meter::new(2);
        std::thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        meter.add(Kind::Tc, Direction::Up, 3);
                        meter.add(Kind::Tc, Direction::Down, 1);
                    }
                });
            }
        });
        assert_eq!(meter.total(Kind::Tc, Direction::Up), 15_000);
        assert_eq!(meter.total(Kind::Tc, Direction::Down), 5_000);
        assert_eq!(meter.total(Kind::Userspace, Direction::Up), 0);
    }
}
