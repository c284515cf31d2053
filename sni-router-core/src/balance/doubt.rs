//! What is remembered of connects that failed, so that others get the connections for a while.
//!
//! An endpoint that a connect failed to is in doubt for [`PAUSE`]: nobody is sent there who could
//! go elsewhere. Then one connection tries again, and the next only when that has succeeded, or
//! after another pause: an endpoint that is away costs one connection a pause its time.
//!
//! A cluster's Service port is in doubt in the same way when all of its endpoints are, or when
//! [`ENOUGH`] of them have failed without a success between. An endpoint that fails again is no
//! news, so those few of many that are away do not take the others out of service.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Until when to go elsewhere, in milliseconds of the caller's clock; 0 is no doubt.
#[derive(Debug, Default)]
pub(super) struct Pause(AtomicU64);

impl Pause {
    /// Begins, or begins again. Whether there was no doubt before.
    pub(super) fn begin(&self, now: Duration) -> bool {
        self.0.swap(ms(now + PAUSE), Ordering::Relaxed) == 0
    }

    /// One of its own that stands where this one does.
    pub(super) fn copied(&self) -> Self {
        Self(self.0.load(Ordering::Relaxed).into())
    }

    /// There is no doubt any more.
    pub(super) fn end(&self) {
        // Mostly there is nothing to write, and the line stays in every core's cache.
        if self.is_on() {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    /// Whether nothing has succeeded since the last failure, however long ago that was.
    pub(super) fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// Whether a connection need not go elsewhere. Where it may be the one that tries again,
    /// [`Self::try_again`] says whether it is.
    pub(super) fn is_over(&self, now: Duration) -> bool {
        self.0.load(Ordering::Relaxed) <= ms(now)
    }

    /// Whether this connection may go there: always without doubt, else the first to ask after
    /// each pause.
    pub(super) fn try_again(&self, now: Duration) -> bool {
        let until = self.0.load(Ordering::Relaxed);
        until == 0
            || until <= ms(now)
                && self
                    .0
                    .compare_exchange(until, ms(now + PAUSE), Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
    }
}

/// The doubt about a Service port, shared by all of its endpoints.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// Endpoints that came to be in doubt since the last connect that succeeded.
    failures: AtomicU32,
    pub(super) pause: Pause,
}

impl Doubt {
    /// One of its own that stands where this one does.
    pub(super) fn copied(&self) -> Self {
        Self {
            failures: self.failures.load(Ordering::Relaxed).into(),
            pause: self.pause.copied(),
        }
    }

    pub(super) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        self.pause.end();
    }

    /// A connect failed: to an endpoint that was not in doubt before, if it `is_news`. `all` says
    /// whether every endpoint is in doubt now.
    pub(super) fn failed(&self, is_news: bool, all: bool, now: Duration) {
        let before = self
            .failures
            .fetch_add(u32::from(is_news), Ordering::Relaxed);
        if all || before.saturating_add(u32::from(is_news)) >= ENOUGH {
            self.pause.begin(now);
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// So many endpoints that fail in a row are no accident of one.
const ENOUGH: u32 = 3;

/// Long enough that what swallows packets costs few connections their time, short enough that
/// what is back is used soon.
pub(super) const PAUSE: Duration = Duration::from_secs(10);
