//! Which records are written: all of connections that were carried, or one in so many of those that
//! ended well; and of rejected ones no more than somebody reads, since anybody can have thousands a
//! second rejected.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::info;

use super::reason::CloseReason;

/// How many records are written.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of rejected connections, a second and close reason.
    pub rejects: u32,
    /// One in so many of connections that were carried and ended well.
    pub sample: NonZeroU32,
}

/// See the module. Shared by all threads.
pub(super) struct Quota {
    limits: Limits,
    start: Instant,
    /// By close reason.
    tallies: [Tally; CloseReason::ALL.len()],
}

#[derive(Default)]
struct Tally {
    /// When the token bucket is full again: nanoseconds after the start.
    full_at: AtomicU64,
    /// Records that the sample was taken of.
    sampled: AtomicU64,
    /// Records left out since the last one that was written.
    suppressed: AtomicU64,
}

impl Quota {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            start: Instant::now(),
            tallies: Default::default(),
        }
    }

    /// Whether a record of this reason is written now; if so, with the number of those that were left
    /// out since the last one that was.
    pub(super) fn admit(&self, reason: CloseReason, is_carried: bool, now: Instant) -> Option<u64> {
        let tally = &self.tallies[reason as usize];
        let is_admitted = match reason {
            _ if !is_carried => tally.take(self.limits.rejects, now.duration_since(self.start)),
            CloseReason::Done => tally.is_in_sample(self.limits.sample),
            _ => true,
        };
        if is_admitted {
            return Some(tally.suppressed());
        }
        tally.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Says what was left out and has not been told by a record since.
    pub(super) fn sum_up(&self) {
        for (reason, tally) in CloseReason::ALL.iter().zip(&self.tallies) {
            let suppressed = tally.suppressed();
            if suppressed > 0 {
                info!(%reason, suppressed, "records were left out of the access log");
            }
        }
    }
}

impl Tally {
    /// Takes a token from a bucket that holds those of a second. A bucket is a time and no count: a
    /// token is the time it takes to come.
    fn take(&self, per_second: u32, now: Duration) -> bool {
        let Some(token) = SECOND_NS.checked_div(per_second.into()) else {
            return false;
        };
        let now = now.as_nanos() as u64;
        let taken = |full_at: u64| {
            let later = full_at.max(now) + token;
            (later - now <= SECOND_NS).then_some(later)
        };
        self.full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken)
            .is_ok()
    }

    fn is_in_sample(&self, one_in: NonZeroU32) -> bool {
        if one_in == NonZeroU32::MIN {
            // Workers need not share the count.
            return true;
        }
        let before = self.sampled.fetch_add(1, Ordering::Relaxed);
        before.is_multiple_of(one_in.get().into())
    }

    /// Looks before it writes, for the same reason.
    fn suppressed(&self) -> u64 {
        match self.suppressed.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.suppressed.swap(0, Ordering::Relaxed),
        }
    }
}

const SECOND_NS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(rejects: u32, sample: u32) -> Quota {
        Quota::new(Limits {
            rejects,
            sample: NonZeroU32::new(sample).unwrap(),
        })
    }

    #[test]
    fn rejects_beyond_those_of_a_second_are_left_out_and_told_by_the_next() {
        let quota = quota(5, 1);
        let at = |ms| quota.start + Duration::from_millis(ms);
        let admit = |ms| quota.admit(CloseReason::NotTls, false, at(ms));
        for _ in 0..5 {
            assert_eq!(admit(0), Some(0));
        }
        for _ in 0..3 {
            assert_eq!(admit(199), None);
        }
        assert_eq!(admit(200), Some(3));
        assert_eq!(admit(201), None);
        // A bucket that has rested for long holds no more than those of a second.
        let later = (0..9).filter_map(|_| admit(60_000)).collect::<Vec<_>>();
        assert_eq!(later, [1, 0, 0, 0, 0]);
    }

    #[test]
    fn reasons_do_not_take_each_others_place() {
        let quota = quota(1, 1);
        let now = quota.start;
        assert_eq!(quota.admit(CloseReason::NotTls, false, now), Some(0));
        assert_eq!(quota.admit(CloseReason::NotTls, false, now), None);
        assert_eq!(quota.admit(CloseReason::UnknownHost, false, now), Some(0));
    }

    #[test]
    fn carried_connections_are_always_admitted_unless_a_sample_is_wanted() {
        let quota = quota(0, 1);
        for reason in CloseReason::ALL {
            assert_eq!(quota.admit(reason, true, quota.start), Some(0));
            assert_eq!(quota.admit(reason, false, quota.start), None);
        }
    }

    #[test]
    fn sample_is_of_those_that_ended_well_and_tells_how_many_it_stands_for() {
        let quota = quota(1, 10);
        let admit = |reason| quota.admit(reason, true, quota.start);
        let admitted: Vec<_> = (0..30).filter_map(|_| admit(CloseReason::Done)).collect();
        assert_eq!(admitted, [0, 9, 9]);
        assert_eq!(admit(CloseReason::ClientReset), Some(0));
    }

    #[test]
    fn quota_of_all_numbers_does_what_it_says() {
        for (rejects, admitted) in [
            (0, 0),
            (1, 1),
            (3, 3),
            (1_000_000_001, 100),
            (u32::MAX, 100),
        ] {
            let quota = quota(rejects, u32::MAX);
            let admit = |_: &i32| {
                quota
                    .admit(CloseReason::NoSni, false, quota.start)
                    .is_some()
            };
            assert_eq!((0..100).filter(admit).count(), admitted, "{rejects}");
        }
    }

    #[test]
    fn threads_together_get_no_more_than_the_quota_and_none_is_forgotten() {
        let quota = quota(100, 1);
        let now = quota.start;
        let told: u64 = std::thread::scope(|scope| {
            let admit = || {
                let one = |_| {
                    quota
                        .admit(CloseReason::NoSni, false, now)
                        .map(|more| 1 + more)
                };
                (0..1000).filter_map(one).collect::<Vec<_>>()
            };
            let threads = [(); 4].map(|()| scope.spawn(admit));
            let admitted = threads.map(|thread| thread.join().unwrap()).concat();
            assert_eq!(admitted.len(), 100);
            admitted.iter().sum()
        });
        let rest = quota.tallies[CloseReason::NoSni as usize].suppressed();
        assert_eq!(told + rest, 4000);
    }
}
