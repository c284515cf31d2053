//! The flows that this process knows, by their numbers.

use foldhash::HashMap;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use sni_router_common::flow::{Ended, FlowKey};
use std::hash::BuildHasher as _;

use super::entry::Entry;
use crate::carry::Seat;
use crate::slab::Slab;

/// See the module.
#[derive(Default)]
pub(super) struct Entries {
    entries: Slab<Entry>,
    places: Places,
    /// What the program has said of flows that are still being handed over.
    early: HashMap<u32, Ended>,
}

/// The places of entries, by the numbers that are in these. Several tables, since to make room in one, somebody goes
/// through its entries, and others wait.
#[derive(Default)]
struct Places {
    tables: [HashTable<u32>; TABLES],
    hasher: RandomState,
}

/// What has become of a flow that is to be left alone.
pub(super) enum Leaving {
    /// The seat is with its entry.
    Left,
    /// It had ended before.
    Ended(Seat, Ended),
    /// There is no such flow any more.
    Gone(Seat),
}

impl Entries {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn contains(&self, id: u32) -> bool {
        self.get(id).is_some()
    }

    pub(super) fn get(&self, id: u32) -> Option<&Entry> {
        self.entries.get(self.places.find(id, &self.entries)?)
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Entry> {
        let place = self.places.find(id, &self.entries)?;
        self.entries.get_mut(place)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Adds a flow. Its number must be none that is here.
    pub(super) fn insert(&mut self, entry: Entry) {
        let id = entry.id;
        let place = self.entries.insert(entry);
        self.places.insert(id, place, &self.entries);
    }

    /// Takes out a flow.
    pub(super) fn remove(&mut self, id: u32) -> Option<Entry> {
        let place = self.places.remove(id, &self.entries)?;
        self.early.remove(&id);
        self.entries.remove(place)
    }

    /// The program says that a flow has ended. Takes it out if the kernel carries it alone; else that is
    /// remembered, and the first word counts.
    pub(super) fn end(&mut self, ended: &Ended) -> Option<(Seat, [FlowKey; 2])> {
        if self.get(ended.id)?.is_left() {
            let mut entry = self.remove(ended.id)?;
            return Some((entry.seat.take()?, entry.keys()));
        }
        self.early.entry(ended.id).or_insert(*ended);
        None
    }

    /// Whether the program has said so, of a flow that is still being handed over.
    pub(super) fn has_ended(&self, id: u32) -> bool {
        self.early.contains_key(&id)
    }

    /// The kernel carries a flow alone from now on.
    pub(super) fn leave(&mut self, id: u32, seat: Seat) -> Leaving {
        if let Some(ended) = self.early.remove(&id) {
            self.remove(id);
            return Leaving::Ended(seat, ended);
        }
        match self.get_mut(id) {
            Some(entry) => {
                entry.seat = Some(seat);
                Leaving::Left
            }
            None => Leaving::Gone(seat),
        }
    }
}

impl Places {
    fn find(&self, id: u32, entries: &Slab<Entry>) -> Option<u32> {
        let hash = self.hasher.hash_one(id);
        let found = self.tables[table(hash)].find(hash, |place| is_of(id, *place, entries));
        found.copied()
    }

    fn insert(&mut self, id: u32, place: u32, entries: &Slab<Entry>) {
        let hash = self.hasher.hash_one(id);
        let again = |place: &u32| hash_of(*place, entries, &self.hasher);
        self.tables[table(hash)].insert_unique(hash, place, again);
    }

    fn remove(&mut self, id: u32, entries: &Slab<Entry>) -> Option<u32> {
        let hash = self.hasher.hash_one(id);
        let table = &mut self.tables[table(hash)];
        let found = table.find_entry(hash, |place| is_of(id, *place, entries));
        let (place, _) = found.ok()?.remove();
        // Gives memory back of which most is not needed any more.
        if table.capacity() > SPARSE * table.len().max(FEW) {
            let again = |place: &u32| hash_of(*place, entries, &self.hasher);
            table.shrink_to(2 * table.len(), again);
        }
        Some(place)
    }
}

/// By bits that tables do not look at. Numbers follow each other: by theirs, all tables would be full at once.
const fn table(hash: u64) -> usize {
    (hash >> 40) as usize % TABLES
}

fn is_of(id: u32, place: u32, entries: &Slab<Entry>) -> bool {
    entries.get(place).is_some_and(|entry| entry.id == id)
}

fn hash_of(place: u32, entries: &Slab<Entry>, hasher: &RandomState) -> u64 {
    // There is one at each place that is known.
    hasher.hash_one(entries.get(place).map_or(0, |entry| entry.id))
}

/// How many times the room that is needed is too much.
const SPARSE: usize = 8;
/// Flows of a table whose room is not worth to be given back.
const FEW: usize = 64;
/// To make room in one takes 3 ms where there are a million flows in all; with one table, 46 ms.
const TABLES: usize = 16;

#[cfg(test)]
mod tests {
    use sni_router_common::flow::{ports, v4};

    use super::*;

    fn entry(id: u32) -> Entry {
        let key = |ports| FlowKey {
            src: v4(id),
            dst: v4(1),
            ports,
        };
        Entry::new(id, &[key(ports(5, 443)), key(ports(8443, 6))], [0; 2])
    }

    fn ended(id: u32, up: u64) -> Ended {
        Ended {
            id,
            end: 1,
            up,
            down: 0,
        }
    }

    #[test]
    fn flows_are_found_by_their_numbers_until_they_are_taken_out() {
        let mut entries = Entries::default();
        // From where numbers come round, in an order that is not theirs.
        let ids: Vec<_> = (0..10_000_u32)
            .map(|i| (i * 7919 % 10_000).wrapping_sub(5000))
            .collect();
        ids.iter().for_each(|id| entries.insert(entry(*id)));
        assert_eq!(entries.len(), 10_000);
        assert!(!entries.contains(5000));
        for id in &ids {
            let found = entries.get(*id).expect("it is there");
            assert_eq!((found.id, found.keys()[0].src), (*id, v4(*id)));
        }
        let room = |entries: &Entries| entries.places.tables.each_ref().map(HashTable::capacity);
        let before: usize = room(&entries).iter().sum();
        for id in &ids[10..] {
            assert_eq!(entries.remove(*id).map(|entry| entry.id), Some(*id));
            assert!(entries.remove(*id).is_none());
        }
        let after: usize = room(&entries).iter().sum();
        assert!(after < before / 2, "memory comes back");
        let mut left: Vec<_> = entries.iter().map(|entry| entry.id).collect();
        left.sort_unstable();
        let mut first = ids[..10].to_vec();
        first.sort_unstable();
        assert_eq!(left, first);
        assert!(first.iter().all(|id| entries.contains(*id)));
    }

    #[test]
    fn end_is_remembered_until_the_flow_is_left_and_the_first_word_counts() {
        let mut entries = Entries::default();
        (1..=3).for_each(|id| entries.insert(entry(id)));
        assert!(entries.end(&ended(1, 7)).is_none());
        assert!(entries.end(&ended(1, 8)).is_none());
        assert!(entries.has_ended(1) && !entries.has_ended(2));
        let Leaving::Ended(seat, end) = entries.leave(1, Seat::new(4)) else {
            panic!("it has ended");
        };
        assert_eq!((seat.number(), end.up), (4, 7));
        assert!(!entries.contains(1) && !entries.has_ended(1));
        assert!(matches!(entries.leave(2, Seat::new(5)), Leaving::Left));
        let (seat, keys) = entries.end(&ended(2, 9)).expect("it was left");
        assert_eq!((seat, keys), (Seat::new(5), entry(2).keys()));
        assert!(matches!(entries.leave(2, Seat::new(6)), Leaving::Gone(_)));
        // Given up in the middle of its hand-over.
        assert!(entries.end(&ended(3, 1)).is_none());
        entries.remove(3);
        assert!(!entries.has_ended(3) && entries.end(&ended(3, 1)).is_none());
    }
}
