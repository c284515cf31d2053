//! The programs' counters.

use aya::maps::{MapData, PerCpuArray};
use sni_router_common::counter::Counter;

/// Counts since the programs were loaded.
pub struct Counters {
    map: PerCpuArray<MapData, u64>,
}

impl Counters {
    pub(super) fn new(map: PerCpuArray<MapData, u64>) -> Self {
        Self { map }
    }

    /// The sum over all CPUs. Zero where the map cannot be read, which only happens if it is gone.
    pub fn read(&self, counter: Counter) -> u64 {
        self.map
            .get(&(counter as u32), 0)
            .map_or(0, |values| values.iter().sum())
    }
}
