//! When connections begin.

use std::time::{Duration, Instant};

/// At a fixed rate, or whenever there is a place.
pub struct Schedule {
    /// The moment of the next one, and the time between two.
    fixed: Option<(Instant, Duration)>,
}

impl Schedule {
    /// So many a second from now on; without a rate, whenever it is asked.
    pub fn new(rate: Option<u32>, now: Instant) -> Self {
        Self {
            fixed: rate.map(|rate| (now, Duration::from_secs(1) / rate)),
        }
    }

    /// When the next connection begins, if that is not in the future: then it is taken.
    ///
    /// Where it should have begun earlier it is that moment, so that a connection that had to wait for
    /// a place is as slow as it was for its client.
    pub fn take(&mut self, now: Instant) -> Option<Instant> {
        match &mut self.fixed {
            None => Some(now),
            Some((next, _)) if *next > now => None,
            Some((next, pause)) => {
                let due = *next;
                *next += *pause;
                Some(due)
            }
        }
    }

    /// How long there is nothing to begin.
    pub fn pause(&self, now: Instant) -> Option<Duration> {
        self.fixed
            .map(|(next, _)| next.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_as_many_as_the_rate_says_and_late_ones_are_told_when_they_were_due() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut schedule = Schedule::new(Some(100), start);
        assert_eq!(schedule.take(at(0)), Some(at(0)));
        assert_eq!(schedule.take(at(3)), None);
        assert_eq!(schedule.pause(at(3)), Some(Duration::from_millis(7)));
        // Nobody asked for a while.
        for due in [10, 20, 30] {
            assert_eq!(schedule.pause(at(35)), Some(Duration::ZERO));
            assert_eq!(schedule.take(at(35)), Some(at(due)));
        }
        assert_eq!(schedule.take(at(35)), None);
        let mut free = Schedule::new(None, start);
        assert_eq!(free.take(at(5)), Some(at(5)));
        assert_eq!(free.take(at(5)), Some(at(5)));
        assert_eq!(free.pause(at(5)), None);
    }
}
