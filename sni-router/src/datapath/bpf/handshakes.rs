//! The handshakes that `snir_tc` has seen, as this process reads them: without a system call.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::param::page_size;
use sni_router_common::flow::FlowKey;
use sni_router_common::handshake::{ENTRIES, Seen, Slot, Tag, WAYS, millis, seen, word};
use sni_router_common::taken::is_opening;

use crate::monotonic::now_ns;
use crate::sys::shared::SharedArray;

/// See the module.
pub struct Handshakes {
    slots: SharedArray,
    secret: [u64; 2],
}

impl Handshakes {
    /// Maps the table. One that is new gets its secret; before that the program remembers nothing.
    pub fn map(map: impl AsFd) -> io::Result<Self> {
        let bytes = ENTRIES as usize * size_of::<Slot>();
        let slots = SharedArray::map(map, bytes.next_multiple_of(page_size()))?;
        let secret = [0, 1].map(|index| {
            let place = slots.word(index * size_of::<u64>());
            // Of two that start at the same time, one.
            match place.compare_exchange(0, chance(), Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => place.load(Ordering::SeqCst),
                Err(there) => there,
            }
        });
        Ok(Self { slots, secret })
    }

    /// What was seen of the sender of these packets; `None` if its SYN did not come by, or so long
    /// ago that others have taken its place.
    pub fn seen(&self, key: &FlowKey) -> Option<Seen> {
        let tag = Tag::of(key, self.secret);
        (0..WAYS).find_map(|way| Seen::read(tag, &self.snapshot(tag, way)))
    }

    /// Forgets a handshake: nobody asks for it any more, and packets of a connection that takes another
    /// datapath should not be looked at. With `isn`, only if that is how it began.
    pub fn forget(&self, key: &FlowKey, isn: Option<u32>) {
        let tag = Tag::of(key, self.secret);
        for way in 0..WAYS {
            let seen = Seen::read(tag, &self.snapshot(tag, way));
            if seen.is_some_and(|seen| isn.is_none_or(|isn| isn == seen.isn)) {
                for index in [word::ISN, word::END] {
                    let word = self.word(tag.first() as usize + way, index);
                    // Behind the flow that was made: who does not find this any more finds that.
                    word.store(0, Ordering::Release);
                }
            }
        }
    }

    /// Has the program take what answers a SYN with this number, instead of the stack. `key` is that of the
    /// answer. Until it is [forgotten](Self::forget). False where there is no place: all that the answer could have
    /// are of other connections that are being opened.
    pub fn wait_for(&self, key: &FlowKey, isn: u32) -> bool {
        let tag = Tag::of(key, self.secret);
        let now = millis(now_ns());
        let awaited = Seen {
            isn,
            end: isn,
            ack: 0,
            tsval: 0,
            tsecr: 0,
            ifindex: 0,
            flags: seen::AWAITED,
            since: now,
        };
        let Some(way) = self.place(tag, now) else {
            return false;
        };
        for (index, word) in awaited.slot(tag).into_iter().enumerate() {
            let place = self.word(tag.first() as usize + way, index);
            place.store(word, Ordering::Relaxed);
        }
        true
    }

    /// Has the packets of a client that was taken go to the stack again, where a socket waits for them. With
    /// `isn`, only if that is how it began.
    pub fn give_back(&self, key: &FlowKey, isn: Option<u32>) {
        let tag = Tag::of(key, self.secret);
        for way in 0..WAYS {
            let first = self.word(tag.first() as usize + way, word::ISN);
            let began = tag.value(word::ISN, first.load(Ordering::SeqCst));
            if isn.is_some() && began != isn {
                continue;
            }
            let place = self.word(tag.first() as usize + way, word::FLAGS);
            // Again where the client has said something in between.
            let given = |word| {
                let flags = tag.value(word::FLAGS, word)?;
                let flags = flags & !seen::TAKEN | seen::PASSED | seen::RESUMED;
                Some(tag.word(word::FLAGS, flags))
            };
            // Fails where it is another key's.
            let _ = place.fetch_update(Ordering::SeqCst, Ordering::SeqCst, given);
        }
    }

    /// The key's own place, or one that nobody has used, or that of the oldest; never that of another connection that
    /// is being opened.
    fn place(&self, tag: Tag, now: u32) -> Option<usize> {
        let age = |way| {
            let slot = self.snapshot(tag, way);
            if Seen::read(tag, &slot).is_some() {
                return Some((i64::MAX, way));
            }
            let age = now.wrapping_sub(slot[word::SINCE] as u32);
            match slot[word::ISN] {
                0 => Some((i64::MAX - 1, way)),
                _ if is_opening(slot[word::FLAGS] as u32, age) => None,
                _ => Some(((age as i32).into(), way)),
            }
        };
        let (_, way) = (0..WAYS).filter_map(age).max()?;
        Some(way)
    }

    /// How many are remembered: looks at every one.
    pub fn count(&self) -> u64 {
        let is_used = |slot: &usize| self.word(*slot, word::ISN).load(Ordering::Relaxed) != 0;
        (WAYS..ENTRIES as usize).filter(is_used).count() as u64
    }

    /// A slot as it was at one moment: read until it is the same twice.
    fn snapshot(&self, tag: Tag, way: usize) -> Slot {
        let read = || {
            let word = |index| {
                self.word(tag.first() as usize + way, index)
                    .load(Ordering::Acquire)
            };
            std::array::from_fn(word)
        };
        let mut before: Slot = read();
        for _ in 0..ATTEMPTS {
            let after = read();
            if before == after {
                return after;
            }
            before = after;
        }
        before
    }

    fn word(&self, slot: usize, index: usize) -> &AtomicU64 {
        self.slots
            .word(slot * size_of::<Slot>() + index * size_of::<u64>())
    }
}

fn chance() -> u64 {
    RandomState::new().hash_one(()) | 1
}

/// A sender does not send packets as fast as they are read.
const ATTEMPTS: usize = 8;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use sni_router_common::flow::ports;

    use super::*;

    /// A table in memory of this process, which no program looks at.
    fn table() -> Handshakes {
        let memory = memfd_create("handshakes", MemfdFlags::CLOEXEC).unwrap();
        let bytes = ENTRIES as usize * size_of::<Slot>();
        ftruncate(&memory, bytes.next_multiple_of(page_size()) as u64).unwrap();
        Handshakes::map(&memory).unwrap()
    }

    /// Keys that may be in the same places, one more than there are of these.
    fn rivals(table: &Handshakes) -> Vec<FlowKey> {
        let mut sets: HashMap<_, Vec<FlowKey>> = HashMap::new();
        let ports = (1..=u16::MAX).flat_map(|from| [443, 8443].map(|to| ports(from, to)));
        let keys = ports.map(|ports| FlowKey {
            src: [1; 4],
            dst: [2; 4],
            ports,
        });
        for key in keys {
            let set = sets.entry(Tag::of(&key, table.secret).first()).or_default();
            set.push(key);
            if set.len() > WAYS {
                return set.clone();
            }
        }
        panic!("every key has a set of its own");
    }

    #[test]
    fn endpoint_that_is_waited_for_takes_the_place_of_no_other() {
        let table = table();
        let mut keys = rivals(&table);
        let last = keys.pop().unwrap();
        for key in &keys {
            assert!(table.wait_for(key, 1));
        }
        assert!(!table.wait_for(&last, 1));
        assert!(table.seen(&last).is_none());
        for key in &keys {
            assert_eq!(table.seen(key).unwrap().flags, seen::AWAITED);
        }
        // Its own it may have anew, and one that is free.
        assert!(table.wait_for(&keys[0], 2));
        assert_eq!(table.seen(&keys[0]).unwrap().isn, 2);
        table.forget(&keys[1], None);
        assert!(table.wait_for(&last, 1));
    }
}
