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

    /// One of [`Counters::all`].
    pub fn read(&self, counter: Counter) -> u64 {
        self.all()[counter as usize]
    }

    /// The sums over all CPUs. Zero where the map cannot be read, which only happens if it is gone.
    pub fn all(&self) -> Counts {
        let now = self.sums();
        array::from_fn(|at| now[at].saturating_sub(self.before[at].load(Ordering::Relaxed)))
    }

    /// Forgets what was counted so far: it was of no client.
    pub fn start_over(&self) {
        for (before, now) in self.before.iter().zip(self.sums()) {
            before.store(now, Ordering::Relaxed);
        }
    }

    fn sums(&self) -> Counts {
        let cpus = self.map.get(&0, 0);
        let cpus = cpus.as_ref().map_or(&[][..], |cpus| &cpus[..]);
        array::from_fn(|at| cpus.iter().map(|counts| counts[at]).sum())
    }
}
