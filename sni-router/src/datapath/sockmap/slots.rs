//! Which pairs of slots are free, and whom to wake about the others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sni_router_common::names::MAX_SLOTS;
use tokio::sync::Notify;

/// All pairs of slots: pair `n` is slots `2n`, the client's, and `2n + 1`, the endpoint's.
pub(super) struct Slots {
    free: Mutex<Vec<u32>>,
    wakers: Box<[Arc<Notify>]>,
    /// Bytes that each pair's connection had moved up before it got the pair.
    before: Box<[AtomicU64]>,
}

impl Slots {
    pub(super) fn new() -> Self {
        let pairs = MAX_SLOTS / 2;
        Self {
            // Low numbers first: the pages of high ones are never touched on a quiet router.
            free: Mutex::new((0..pairs).rev().collect()),
            wakers: (0..pairs).map(|_| Arc::default()).collect(),
            before: (0..pairs).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// A free pair, or `None` if all are taken.
    pub(super) fn take(self: &Arc<Self>) -> Option<SlotPair> {
        let index = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()?;
        Some(SlotPair {
            slots: Arc::clone(self),
            index,
        })
    }

    /// How many slots are not free.
    pub(super) fn taken(&self) -> u64 {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        2 * (self.wakers.len() - free.len()) as u64
    }

    /// Bytes that the connection with this slot had moved up before it got it.
    pub(super) fn before(&self, slot: u32) -> u64 {
        let before = self.before.get(slot as usize / 2);
        before.map_or(0, |before| before.load(Ordering::Acquire))
    }

    /// Wakes the connection that has `slot`, if any.
    pub(super) fn wake(&self, slot: u32) {
        if let Some(waker) = self.wakers.get(slot as usize / 2) {
            waker.notify_one();
        }
    }

    /// Wakes every connection.
    pub(super) fn wake_all(&self) {
        for waker in &self.wakers {
            waker.notify_one();
        }
    }
}

/// A pair of slots; free again when dropped, which must not happen before its sockets are closed.
pub(super) struct SlotPair {
    slots: Arc<Slots>,
    index: u32,
}

impl SlotPair {
    /// The slot of the client's socket.
    pub(super) fn client(&self) -> u32 {
        self.index * 2
    }

    /// The slot of the endpoint's socket.
    pub(super) fn endpoint(&self) -> u32 {
        self.index * 2 + 1
    }

    /// Notes how much the connection had moved up before.
    pub(super) fn count_from(&self, before: u64) {
        self.slots.before[self.index as usize].store(before, Ordering::Release);
    }

    /// Notified when something about the pair may have changed; also for no reason.
    pub(super) fn changed(&self) -> &Arc<Notify> {
        &self.slots.wakers[self.index as usize]
    }
}

impl Drop for SlotPair {
    fn drop(&mut self) {
        self.slots
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(self.index);
    }
}
