//! Many small things, each at a place of its own.
//!
//! In chunks: nothing is copied to make room for more, as a `Vec` does, and a chunk that is empty again is
//! given back.

use std::collections::BTreeSet;

/// Things by their places. Places that are free again are used again, the lowest first.
pub struct Slab<T> {
    chunks: Vec<Option<Chunk<T>>>,
    /// Numbers of chunks that have a free place, or are not there.
    roomy: BTreeSet<u32>,
    /// The one chunk that may be there and empty, lest it come and go with every single thing.
    spare: Option<u32>,
    len: usize,
}

struct Chunk<T> {
    places: Box<[Option<T>]>,
    /// A bit for each place that is free.
    free: [u64; CHUNK / 64],
}

impl<T> Slab<T> {
    /// How many things there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Puts a thing somewhere, and tells where. There is room for 2³² of them.
    pub fn insert(&mut self, thing: T) -> u32 {
        let number = match self.roomy.first() {
            Some(lowest) => *lowest,
            None => {
                self.chunks.push(None);
                let number = self.chunks.len() as u32 - 1;
                self.roomy.insert(number);
                number
            }
        };
        let chunk = self.chunks[number as usize].get_or_insert_with(Chunk::new);
        let place = chunk.put(thing);
        if chunk.is_full() {
            self.roomy.remove(&number);
        }
        self.spare.take_if(|spare| *spare == number);
        self.len += 1;
        number * CHUNK as u32 + place
    }

    /// What is at this place.
    pub fn get(&self, place: u32) -> Option<&T> {
        let chunk = self.chunks.get(place as usize / CHUNK)?.as_ref()?;
        chunk.places[place as usize % CHUNK].as_ref()
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        let chunk = self.chunks.get_mut(place as usize / CHUNK)?.as_mut()?;
        chunk.places[place as usize % CHUNK].as_mut()
    }

    /// Takes out what is at this place, which is free then.
    pub fn remove(&mut self, place: u32) -> Option<T> {
        let number = place / CHUNK as u32;
        let chunk = self.chunks.get_mut(number as usize)?.as_mut()?;
        let thing = chunk.take(place as usize % CHUNK)?;
        let is_empty = chunk.is_empty();
        self.roomy.insert(number);
        self.len -= 1;
        if is_empty {
            // The next thing goes to the lower one of two.
            let spare = self.spare.unwrap_or(number);
            if spare != number {
                self.chunks[spare.max(number) as usize] = None;
            }
            self.spare = Some(spare.min(number));
        }
        Some(thing)
    }

    /// Chunks that there are or were, for [`Self::chunk`].
    pub fn chunks(&self) -> u32 {
        self.chunks.len() as u32
    }

    /// The things of one chunk with their places: who goes through all of them may let others in between.
    pub fn chunk(&self, number: u32) -> impl Iterator<Item = (u32, &T)> {
        let chunk = self.chunks.get(number as usize);
        let places = chunk.and_then(|chunk| Some(&chunk.as_ref()?.places));
        let first = number * CHUNK as u32;
        let things = places.into_iter().flatten().zip(first..);
        things.filter_map(|(thing, place)| Some((place, thing.as_ref()?)))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        (0..self.chunks()).flat_map(|number| self.chunk(number).map(|(_, thing)| thing))
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            roomy: BTreeSet::new(),
            spare: None,
            len: 0,
        }
    }
}

impl<T> Chunk<T> {
    fn new() -> Self {
        Self {
            places: (0..CHUNK).map(|_| None).collect(),
            free: [u64::MAX; CHUNK / 64],
        }
    }

    /// There must be room.
    fn put(&mut self, thing: T) -> u32 {
        let has_room = |word: &u64| *word != 0;
        let word = self.free.iter().position(has_room).unwrap_or_default();
        let bit = self.free[word].trailing_zeros() as usize;
        self.free[word] &= !(1 << bit);
        let place = word * 64 + bit;
        self.places[place] = Some(thing);
        place as u32
    }

    fn take(&mut self, place: usize) -> Option<T> {
        let thing = self.places[place].take()?;
        self.free[place / 64] |= 1 << (place % 64);
        Some(thing)
    }

    fn is_full(&self) -> bool {
        self.free.iter().all(|word| *word == 0)
    }

    fn is_empty(&self) -> bool {
        self.free.iter().all(|word| *word == u64::MAX)
    }
}

/// Things of a chunk: it is gone through under a lock, and the last one may be nearly empty.
const CHUNK: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    impl<T> Slab<T> {
        /// Chunks that take memory.
        fn held(&self) -> usize {
            self.chunks.iter().flatten().count()
        }
    }

    #[test]
    fn things_stay_where_they_are_and_places_are_used_again() {
        let mut slab = Slab::default();
        let places: Vec<_> = (0..3 * CHUNK).map(|thing| slab.insert(thing)).collect();
        assert_eq!(places, (0..3 * CHUNK as u32).collect::<Vec<_>>());
        assert_eq!(slab.remove(700), Some(700));
        assert_eq!(slab.remove(5), Some(5));
        assert_eq!(slab.remove(5), None);
        assert_eq!(
            (slab.get(5), slab.get(6), slab.len()),
            (None, Some(&6), 1534)
        );
        assert_eq!(slab.insert(7000), 5);
        *slab.get_mut(5).unwrap() += 1;
        assert_eq!(slab.insert(7002), 700);
        assert_eq!((slab.get(5), slab.get(700)), (Some(&7001), Some(&7002)));
        let second: Vec<_> = slab.chunk(1).filter(|(_, thing)| **thing > 6000).collect();
        assert_eq!(second, [(700, &7002)]);
        assert_eq!(slab.iter().count(), slab.len());
        assert_eq!((slab.get(u32::MAX), slab.chunk(99).count()), (None, 0));
    }

    #[test]
    fn memory_is_given_back_whatever_the_order_but_for_one_chunk() {
        let count = 4 * CHUNK as u32;
        let up = (0..count).collect::<Vec<_>>();
        let down = up.iter().rev().copied().collect();
        let mixed = up.iter().map(|place| place * 1009 % count).collect();
        for order in [up, down, mixed] {
            let mut slab = Slab::default();
            assert_eq!(
                (0..count).map(|thing| slab.insert(thing)).max(),
                Some(count - 1)
            );
            assert_eq!(slab.held(), 4);
            for place in order {
                assert_eq!(slab.remove(place), Some(place));
            }
            assert_eq!((slab.held(), slab.len()), (1, 0));
            // It is the one that the next thing goes to.
            for _ in 0..3 {
                let place = slab.insert(1);
                assert_eq!((slab.held(), slab.remove(place)), (1, Some(1)));
            }
        }
    }
}
