//! Connections counted by route.
//!
//! A table takes the counts over from the one before it. Those of a route that is gone stay, since
//! a counter that goes away and starts again at zero misleads; there are [`PLACES`] in all, and
//! whatever finds none counts with the others. Nothing here comes from clients.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;

use crate::model::ObjectKey;
use crate::name::HostPattern;

/// The connections of one route, or of all those that have no place of their own.
#[derive(Debug, Default)]
pub struct Tally {
    opened: AtomicU64,
    carried: AtomicU64,
    failed: AtomicU64,
}

/// A [`Tally`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that took the route.
    pub opened: u64,
    /// Those that have ended, having been carried.
    pub carried: u64,
    /// Those that have ended before they were: mostly since no endpoint could be connected to.
    pub failed: u64,
}

impl Counts {
    /// Those that have not ended.
    pub fn active(&self) -> u64 {
        self.opened.saturating_sub(self.carried + self.failed)
    }
}

impl Tally {
    /// A connection took the route.
    pub fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that took the route has ended.
    pub fn closed(&self, was_carried: bool) {
        let count = match was_carried {
            true => &self.carried,
            false => &self.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        // Who has ended has been opened before.
        let carried = self.carried.load(Ordering::Relaxed);
        let failed = self.failed.load(Ordering::Relaxed);
        Counts {
            opened: self.opened.load(Ordering::Relaxed),
            carried,
            failed,
        }
    }

    /// Takes over what another one, of which no connection is left, has counted.
    fn absorb(&self, counts: Counts) {
        self.opened.fetch_add(counts.opened, Ordering::Relaxed);
        self.carried.fetch_add(counts.carried, Ordering::Relaxed);
        self.failed.fetch_add(counts.failed, Ordering::Relaxed);
    }
}

impl Counts {
    fn is_settled(&self) -> bool {
        self.opened == self.carried + self.failed
    }
}

/// Every route that has a place, be it gone, and the others.
#[derive(Clone, Debug, Default)]
pub(super) struct Tallies {
    by_listener: HashMap<ObjectKey, HashMap<HostPattern, Place, RandomState>, RandomState>,
    count: usize,
    others: Arc<Tally>,
}

#[derive(Clone, Debug)]
struct Place {
    tally: Arc<Tally>,
    /// The last generation whose table had the route.
    generation: u64,
}

/// The tallies of a table that is being compiled.
pub(super) struct Giving {
    tallies: Tallies,
    generation: u64,
    /// Places that can be given to others, the one that has been of no use longest at the end.
    spare: Vec<(ObjectKey, HostPattern)>,
}

impl Tallies {
    /// Begins with what the table of `previous` generation had.
    pub(super) fn give(&self, previous: u64, generation: u64) -> Giving {
        let tallies = self.clone();
        let mut spare = Vec::new();
        for (listener, places) in &tallies.by_listener {
            for (pattern, place) in places {
                // One that the table in force has may get connections until this one is.
                if place.generation < previous && place.tally.counts().is_settled() {
                    spare.push((place.generation, listener.clone(), pattern.clone()));
                }
            }
        }
        spare.sort_unstable();
        spare.reverse();
        let spare = spare.into_iter();
        Giving {
            tallies,
            generation,
            spare: spare
                .map(|(_, listener, pattern)| (listener, pattern))
                .collect(),
        }
    }

    /// What was counted so far, each with the listener and pattern of its route; those without a
    /// place all together, without a name.
    pub(super) fn counts(
        &self,
    ) -> impl Iterator<Item = (Option<(&ObjectKey, &HostPattern)>, Counts)> {
        let named = self.by_listener.iter().flat_map(|(listener, places)| {
            let places = places.iter();
            places.map(move |(pattern, place)| (Some((listener, pattern)), place.tally.counts()))
        });
        named.chain([(None, self.others.counts())])
    }
}

impl Giving {
    /// Where the connections of a route are counted.
    pub(super) fn tally(&mut self, listener: &ObjectKey, pattern: &HostPattern) -> Arc<Tally> {
        let places = self.tallies.by_listener.get_mut(listener);
        if let Some(place) = places.and_then(|places| places.get_mut(pattern)) {
            place.generation = self.generation;
            return Arc::clone(&place.tally);
        }
        if self.tallies.count >= PLACES && !self.make_room() {
            return Arc::clone(&self.tallies.others);
        }
        let place = Place {
            tally: Arc::default(),
            generation: self.generation,
        };
        let tally = Arc::clone(&place.tally);
        let places = self.tallies.by_listener.entry(listener.clone());
        places.or_default().insert(pattern.clone(), place);
        self.tallies.count += 1;
        tally
    }

    pub(super) fn done(self) -> Tallies {
        self.tallies
    }

    /// Has the route that has been gone longest counted with the others.
    fn make_room(&mut self) -> bool {
        while let Some((listener, pattern)) = self.spare.pop() {
            let Some(places) = self.tallies.by_listener.get_mut(&listener) else {
                continue;
            };
            // Unless it has just come back.
            let gone = places.get(&pattern);
            if gone.is_none_or(|place| place.generation == self.generation) {
                continue;
            }
            if let Some(place) = places.remove(&pattern) {
                self.tallies.others.absorb(place.tally.counts());
            }
            if places.is_empty() {
                self.tallies.by_listener.remove(&listener);
            }
            self.tallies.count -= 1;
            return true;
        }
        false
    }
}

/// Routes that are counted one by one: first come, first served. Three time series each are what a
/// Prometheus takes from every node without noticing.
pub const PLACES: usize = 1_000;
