//! What a connection moves, and the word that it is to end: what its task shares with whoever asks.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use sni_router_common::flow::{since, tick};
use tokio::sync::Notify;

use super::{End, Live};

/// What a connection has moved so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Bytes from the client to the endpoint, the hello included.
    pub up: u64,
    /// Bytes from the endpoint to the client.
    pub down: u64,
    /// Time since anything moved, about a second exact.
    pub idle: Duration,
}

/// What is carried, readable while the connection lives, and the word that it is to end.
#[derive(Debug)]
pub struct Traffic {
    up: AtomicU64,
    down: AtomicU64,
    /// The direction whose sender was the first to send a FIN, by its number and one; 0 for none.
    finished_first: AtomicU8,
    /// When anything moved last, in ticks.
    moved: AtomicU32,
    /// Where the kernel counts it for now; [`NOWHERE`] if it does not.
    slot: AtomicU32,
    /// The end that was told, by its number and one; 0 for none.
    told: AtomicU8,
    heard: Notify,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            finished_first: AtomicU8::new(0),
            moved: AtomicU32::new(now()),
            slot: AtomicU32::new(NOWHERE),
            told: AtomicU8::new(0),
            heard: Notify::new(),
        }
    }
}

impl Traffic {
    /// Bytes from the client to the endpoint, the hello included.
    pub fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    /// Bytes from the endpoint to the client.
    pub fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }

    /// All of it.
    pub fn moved(&self) -> Moved {
        Moved {
            up: self.up(),
            down: self.down(),
            idle: since(self.moved.load(Ordering::Relaxed), now()),
        }
    }

    /// Adds `bytes` to the count of one direction.
    pub fn add(&self, direction: Direction, bytes: u64) {
        self.of(direction).fetch_add(bytes, Ordering::Relaxed);
        self.moved.store(now(), Ordering::Relaxed);
    }

    /// Raises the count of one direction to `bytes`, if it is not there yet.
    pub fn raise(&self, direction: Direction, bytes: u64) {
        if self.of(direction).fetch_max(bytes, Ordering::Relaxed) < bytes {
            self.moved.store(now(), Ordering::Relaxed);
        }
    }

    /// The kernel counts it at this slot of [`Live`] from now on.
    pub fn counted_at(&self, slot: u32) {
        self.slot.store(slot, Ordering::Release);
    }

    /// The kernel counts it no more. Must come before the slot is another connection's.
    pub fn counted(&self) {
        self.slot.store(NOWHERE, Ordering::Relaxed);
        // Whoever sees a count of the slot's next connection sees this, too.
        fence(Ordering::SeqCst);
    }

    /// Raises the counts to those of the kernel, where it has some.
    pub fn refresh(&self, live: &dyn Live) {
        let slot = self.slot.load(Ordering::Acquire);
        if slot == NOWHERE {
            return;
        }
        let (up, down) = live.moved(slot);
        fence(Ordering::SeqCst);
        // What was read in between may have been another connection's.
        if self.slot.load(Ordering::Relaxed) == slot {
            self.raise(Direction::Up, up);
            self.raise(Direction::Down, down);
        }
    }

    /// The sender of one direction has sent its FIN.
    pub fn finished(&self, direction: Direction) {
        // Fails where the other one was first.
        let _ = self.finished_first.compare_exchange(
            0,
            direction as u8 + 1,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// The direction whose sender was the first to send a FIN, where that is known.
    pub fn finished_first(&self) -> Option<Direction> {
        let is_first = |direction: &Direction| {
            self.finished_first.load(Ordering::Relaxed) == *direction as u8 + 1
        };
        [Direction::Up, Direction::Down].into_iter().find(is_first)
    }

    /// Tells whoever carries the connection to end it. The first word counts.
    pub fn tell(&self, end: End) {
        let first =
            self.told
                .compare_exchange(0, end as u8 + 1, Ordering::SeqCst, Ordering::SeqCst);
        if first.is_ok() {
            self.heard.notify_one();
        }
    }

    /// What was told.
    pub fn told(&self) -> Option<End> {
        let told = self.told.load(Ordering::SeqCst).checked_sub(1)?;
        End::ALL.get(usize::from(told)).copied()
    }

    /// Waits until somebody tells. Nobody else may wait at the same time.
    pub async fn hear(&self) -> End {
        loop {
            if let Some(end) = self.told() {
                return end;
            }
            self.heard.notified().await;
        }
    }

    fn of(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }
}

/// One of the two ways through the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to endpoint.
    Up,
    /// Endpoint to client.
    Down,
}

/// No slot.
const NOWHERE: u32 = u32::MAX;

/// Now, on the clock of the programs in the kernel. Read for every piece of a stream, so from where it
/// costs no system call and is only as new as the last timer interrupt.
fn now() -> u32 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    tick(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slot whose connection ends while it is read.
    struct Ending<'t>(&'t Traffic);

    impl Live for Ending<'_> {
        fn moved(&self, _: u32) -> (u64, u64) {
            self.0.counted();
            (70, 80)
        }
    }

    struct Fixed(u64, u64);

    impl Live for Fixed {
        fn moved(&self, slot: u32) -> (u64, u64) {
            assert_eq!(slot, 7);
            (self.0, self.1)
        }
    }

    fn both(traffic: &Traffic) -> (u64, u64) {
        (traffic.up(), traffic.down())
    }

    #[test]
    fn counts_follow_the_kernel_as_long_as_the_slot_is_the_connections_own() {
        let traffic = Traffic::default();
        traffic.refresh(&Fixed(1, 1));
        assert_eq!(both(&traffic), (0, 0), "nobody counts yet");
        traffic.counted_at(7);
        traffic.refresh(&Fixed(5, 6));
        assert_eq!(both(&traffic), (5, 6));
        traffic.refresh(&Fixed(4, 9));
        assert_eq!(both(&traffic), (5, 9), "an old look takes nothing back");
        traffic.refresh(&Ending(&traffic));
        assert_eq!(both(&traffic), (5, 9), "another connection's bytes");
        traffic.refresh(&Fixed(100, 100));
        assert_eq!(both(&traffic), (5, 9), "the slot is given up");
    }
}
