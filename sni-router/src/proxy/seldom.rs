//! Saying once what happens again and again.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Something that is worth a word, but not one each time: who logs may have to wait for the log.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    last: Option<Instant>,
    /// How often it has happened since.
    times: u64,
}

impl Seldom {
    /// It happens `now`. Answers with how often it did since it was last said, where it is time to say it again.
    pub(super) fn happens(&self, now: Instant) -> Option<u64> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.times += 1;
        let is_time = said
            .last
            .is_none_or(|last| now.duration_since(last) >= AGAIN);
        is_time.then(|| {
            said.last = Some(now);
            std::mem::take(&mut said.times)
        })
    }
}

const AGAIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_time_is_said_and_then_once_a_minute_with_their_number() {
        let seldom = Seldom::default();
        let start = Instant::now();
        let at = |seconds| seldom.happens(start + Duration::from_secs(seconds));
        assert_eq!(at(0), Some(1));
        assert_eq!([at(1), at(59)], [None, None]);
        assert_eq!(at(60), Some(3));
        assert_eq!(at(61), None);
    }
}
