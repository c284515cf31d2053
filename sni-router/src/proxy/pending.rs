//! The limit on connections whose hello is not complete.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many connections are saying hello.
pub(super) struct Pending {
    now: AtomicUsize,
    max: usize,
}

impl Pending {
    pub(super) fn new(max: usize) -> Self {
        Self {
            now: AtomicUsize::new(0),
            max,
        }
    }

    /// How many there are now, and how many there may be.
    pub(super) fn count(&self) -> (usize, usize) {
        // One that finds all places taken counts for a moment.
        let now = self.now.load(Ordering::Relaxed);
        (now.min(self.max), self.max)
    }

    /// A place, or `None` if all are taken.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        let place = Place(Arc::clone(self));
        let before = self.now.fetch_add(1, Ordering::Relaxed);
        (before < self.max).then_some(place)
    }
}

/// One of the places; given back when dropped.
pub(super) struct Place(Arc<Pending>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_place_is_left_when_all_are_taken() {
        let pending = Arc::new(Pending::new(2));
        let first = pending.enter();
        let second = pending.enter();
        assert!(first.is_some() && second.is_some());
        assert!(pending.enter().is_none());
        assert_eq!(pending.count(), (2, 2));
        drop(first);
        assert!(pending.enter().is_some());
    }
}
