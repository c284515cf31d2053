//! The programs' counters.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{MapData, PerCpuArray};
use sni_router_common::counter::{Counter, Counts};

/// Counts since the programs were loaded, or since [`Counters::start_over`].
pub struct Counters {
    map: PerCpuArray<MapData, Counts>,
    before: [AtomicU64; Counter::ALL.len()],
}

impl Counters {
    pub(super) fn new(map: PerCpuArray<MapData, Counts>) -> Self {
        Self {
            map,
            before: array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// The sum over all CPUs. Zero where the map cannot be read, which only happens if it is gone.
    pub fn read(&self, counter: Counter) -> u64 {
        let before = self.before[counter as usize].load(Ordering::Relaxed);
        self.sum(counter).saturating_sub(before)
    }

    /// Forgets what was counted so far: it was of no client.
    pub fn start_over(&self) {
        for counter in Counter::ALL {
            self.before[counter as usize].store(self.sum(counter), Ordering::Relaxed);
        }
    }

    fn sum(&self, counter: Counter) -> u64 {
        self.map.get(&0, 0).map_or(0, |cpus| {
            let of = |counts: &Counts| counts[counter as usize];
            cpus.iter().map(of).sum()
        })
    }
}
