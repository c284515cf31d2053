//! How full the kernel's maps are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sni_router_common::names;

use super::sockmap::Sockmap;
use super::tc::Tc;

/// What has entries in maps.
#[derive(Clone, Default)]
pub struct Fill {
    pub(super) rules: Option<Arc<AtomicUsize>>,
    pub(super) tc: Option<Arc<Tc>>,
    pub(super) sockmap: Option<Arc<Sockmap>>,
}

/// A map at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFill {
    /// Its name.
    pub map: &'static str,
    /// Entries in it.
    pub entries: u64,
    /// Entries that it has room for.
    pub capacity: u32,
}

impl Fill {
    /// The maps that can be full, of the programs that are loaded: known without looking into them.
    /// Not among them is `SNI_SEEN`, which forgets old ones instead.
    pub fn maps(&self) -> Vec<MapFill> {
        let map = |map, entries, capacity| MapFill {
            map,
            entries,
            capacity,
        };
        let rules = self.rules.as_ref().map(|count| {
            let count = count.load(Ordering::Relaxed) as u64;
            map(names::MAP_RULES, count, names::MAX_RULES)
        });
        let flows = self.tc.as_ref().map(|tc| {
            let entries = tc.table_entries();
            map(names::MAP_FLOWS, entries, names::MAX_FLOWS)
        });
        let slots = self.sockmap.iter().flat_map(|sockmap| {
            let slots = sockmap.slots();
            [names::MAP_SOCKS, names::MAP_SLOTS].map(|name| map(name, slots, names::MAX_SLOTS))
        });
        rules.into_iter().chain(flows).chain(slots).collect()
    }

    /// All maps in which entries come and go. Counts those of `SNI_SEEN`, which are 4 MB to look at.
    pub fn counted(&self) -> Vec<MapFill> {
        let seen = self.tc.iter().map(|tc| MapFill {
            map: names::MAP_SEEN,
            entries: tc.handshakes(),
            capacity: names::MAX_SEEN,
        });
        // A slot has a stream, whatever the array has room for.
        let streams = self.sockmap.iter().map(|sockmap| MapFill {
            map: names::MAP_STREAMS,
            entries: sockmap.slots(),
            capacity: names::MAX_SLOTS,
        });
        self.maps().into_iter().chain(seen).chain(streams).collect()
    }
}
