//! What this process has in the kernel, for whoever asks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sni_router_common::counter::COUNTERS;
use sni_router_common::names;

/// See the module.
#[derive(Debug)]
pub struct KernelFacts {
    /// Where what outlives the process is pinned.
    pub pins: Option<PathBuf>,
    /// Interfaces by number, and the program that is attached to each.
    attached: Mutex<BTreeMap<u32, String>>,
}

impl KernelFacts {
    /// Maps with what they have room for, of the object as it is built.
    pub const MAPS: [(&str, u32); 11] = [
        (names::MAP_RULES, names::MAX_RULES),
        (names::MAP_LISTEN, names::LISTEN_ENTRIES),
        (names::MAP_SOCKS, names::MAX_SLOTS),
        (names::MAP_SLOTS, names::MAX_SLOTS),
        (names::MAP_STREAMS, names::MAX_SLOTS),
        (names::MAP_EVENTS, names::EVENT_RING_BYTES),
        (names::MAP_COUNT, COUNTERS),
        (names::MAP_PORTS, names::PORT_WORDS),
        (names::MAP_SEEN, names::MAX_SEEN),
        (names::MAP_FLOWS, names::MAX_FLOWS),
        (names::MAP_ENDED, names::ENDED_RING_BYTES),
    ];

    pub(super) fn new(pins: Option<PathBuf>) -> Self {
        Self {
            pins,
            attached: Mutex::default(),
        }
    }

    /// Interfaces that a program is attached to, as `eth0 (snir_tc_ether)`.
    pub fn interfaces(&self) -> Vec<String> {
        self.attached().values().cloned().collect()
    }

    pub(super) fn attach(&self, index: u32, interface: &str, program: &str) {
        let shown = format!("{interface} ({program})");
        self.attached().insert(index, shown);
    }

    pub(super) fn detach(&self, index: u32) {
        self.attached().remove(&index);
    }

    /// A thread that panicked while holding it leaves it as good as it was.
    fn attached(&self) -> MutexGuard<'_, BTreeMap<u32, String>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
