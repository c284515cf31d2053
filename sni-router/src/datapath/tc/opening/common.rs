//! What all openers have together.

use std::hash::RandomState;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::balance::Balance;
use super::shares::{MOST_OPENERS, Rank};

/// See the module.
#[derive(Default)]
pub(in crate::datapath::tc) struct Common {
    /// What nobody can guess: whoever uses a port again goes on where another was.
    pub(super) random: RandomState,
    pub(super) totals: Totals,
    pub(super) balance: Mutex<Balance>,
}

/// How much there is of what has limits, as each has said last.
#[derive(Default)]
pub(super) struct Totals([Total; MOST_OPENERS]);

/// In a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Total {
    openings: AtomicUsize,
    bytes: AtomicUsize,
}

/// What an opener has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Has {
    /// Connections that are being opened.
    pub(super) openings: usize,
    /// Bytes of hellos that were sent.
    pub(super) bytes: usize,
}

impl Totals {
    /// An opener has so much now.
    pub(super) fn say(&self, rank: Rank, has: Has) {
        let Self(totals) = self;
        let total = &totals[rank.index()];
        total.openings.store(has.openings, Ordering::Relaxed);
        total.bytes.store(has.bytes, Ordering::Relaxed);
    }

    /// Whether all have more than `most` of something together, of which this one has `own`.
    pub(super) fn exceed(
        &self,
        rank: Rank,
        own: usize,
        most: usize,
        of: fn(&Has) -> usize,
    ) -> bool {
        // What another CPU writes is only looked at where it may matter.
        own > rank.share(most) && own + self.others(rank, of) > most
    }

    fn others(&self, rank: Rank, of: fn(&Has) -> usize) -> usize {
        let Self(totals) = self;
        let others = totals.iter().enumerate();
        let others = others.filter(|(index, _)| *index != rank.index());
        others.map(|(_, total)| of(&total.has())).sum()
    }
}

impl Total {
    fn has(&self) -> Has {
        Has {
            openings: self.openings.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_may_have_all_that_others_do_not_have() {
        let totals = Totals::default();
        let ranks: Vec<_> = Rank::all(4).collect();
        let openings = |has: &Has| has.openings;
        let exceed = |own| totals.exceed(ranks[0], own, 10, openings);
        let say = |openings| {
            totals.say(
                ranks[1],
                Has {
                    openings,
                    bytes: 99,
                },
            )
        };
        assert!(!exceed(10));
        assert!(exceed(11));
        say(4);
        assert!(!exceed(6));
        assert!(exceed(7));
        say(0);
        assert!(!exceed(10));
        // Its share is everybody's, whatever others have.
        say(9);
        assert!(!exceed(5));
    }
}
