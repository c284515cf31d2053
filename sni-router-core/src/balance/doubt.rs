//! What is remembered of a cluster's Service port that does not answer, so that others get its
//! connections for a while.
//!
//! One endpoint that fails is the business of the connection that met it. When as many connects
//! in a row have failed as [`ENOUGH`], or as there are endpoints if those are fewer, the whole is
//! in doubt: for [`PAUSE`] nobody is sent there who could go elsewhere. Then one connection tries
//! again, and the next only when that has succeeded, or after another pause: a cluster that is
//! away costs one connection a pause its time.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// The doubt about a Service port, shared by all of its endpoints.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// Connects that failed since the last one that succeeded.
    failures: AtomicU32,
    /// Until when nobody is sent there, in milliseconds of the caller's clock; 0 is no doubt.
    until_ms: AtomicU64,
}

impl Doubt {
    pub(super) fn succeeded(&self) {
        // Mostly there is nothing to write, and the line stays in every core's cache.
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if self.until_ms.load(Ordering::Relaxed) > 0 {
            self.until_ms.store(0, Ordering::Relaxed);
        }
    }

    /// A connect to one of `endpoints` failed.
    pub(super) fn failed(&self, endpoints: usize, now: Duration) {
        let before = self.failures.load(Ordering::Relaxed);
        self.failures
            .store(before.saturating_add(1), Ordering::Relaxed);
        if before as usize + 1 >= endpoints.min(ENOUGH) {
            self.until_ms.store(ms(now + PAUSE), Ordering::Relaxed);
        }
    }

    /// Whether a connection should go elsewhere. Where it may be the one that tries again,
    /// [`Self::try_again`] says whether it is.
    pub(super) fn is_open(&self, now: Duration) -> bool {
        self.until_ms.load(Ordering::Relaxed) <= ms(now)
    }

    /// Whether this connection may go there: always without doubt, else the first to ask after
    /// each pause.
    pub(super) fn try_again(&self, now: Duration) -> bool {
        let until = self.until_ms.load(Ordering::Relaxed);
        until == 0
            || until <= ms(now)
                && self
                    .until_ms
                    .compare_exchange(until, ms(now + PAUSE), Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// So many failures in a row are no accident of one endpoint.
const ENOUGH: usize = 3;

/// Long enough that a cluster which swallows packets costs few connections their time, short
/// enough that one which is back is used soon.
pub(super) const PAUSE: Duration = Duration::from_secs(10);
