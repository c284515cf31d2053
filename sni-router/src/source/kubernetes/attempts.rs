//! How often the same status was written to the same object.
//!
//! One that does not stay (the definition drops it, somebody else writes it too) or that is refused
//! is written ever more rarely, so that no fight lasts and nothing is written for ever.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::kind::Kind;
use super::object::Id;
use super::status::Change;

/// What was written lately, by object.
#[derive(Default)]
pub struct Attempts {
    last: HashMap<(Kind, Id), Attempt>,
}

struct Attempt {
    uid: String,
    meaning: String,
    /// How often in a row.
    times: u32,
    at: Instant,
}

impl Attempts {
    /// Whether it may be written now.
    pub fn is_due(&self, change: &Change, now: Instant) -> bool {
        self.of(change)
            .is_none_or(|last| now.duration_since(last.at) >= last.pause())
    }

    /// Takes one that was written or refused, and tells how often in a row that was so.
    pub fn made(&mut self, change: &Change, now: Instant) -> u32 {
        let times = self.of(change).map_or(0, |last| last.times);
        let attempt = Attempt {
            uid: change.uid.clone(),
            meaning: change.meaning.clone(),
            times: times.saturating_add(1),
            at: now,
        };
        self.last.insert((change.kind, change.id.clone()), attempt);
        times.saturating_add(1)
    }

    /// Forgets what is long ago.
    pub fn expire(&mut self, now: Instant) {
        self.last
            .retain(|_, last| now.duration_since(last.at) < FORGET_AFTER);
    }

    fn of(&self, change: &Change) -> Option<&Attempt> {
        let last = self.last.get(&(change.kind, change.id.clone()))?;
        (last.uid == change.uid && last.meaning == change.meaning).then_some(last)
    }
}

impl Attempt {
    fn pause(&self) -> Duration {
        let doublings = self.times.saturating_sub(1).min(16);
        (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE)
    }
}

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What is undone less often than this is written at once.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(meaning: &str) -> Change {
        Change {
            kind: Kind::Ingress,
            id: Id {
                namespace: "shop".into(),
                name: "web".into(),
            },
            uid: "7".into(),
            status: json!({}),
            meaning: meaning.into(),
            inherits: false,
        }
    }

    #[test]
    fn what_does_not_stay_is_written_ever_more_rarely() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let (change, mut last) = (change("a"), 0);
        for second in 0..3000 {
            let now = start + Duration::from_secs(second);
            attempts.expire(now);
            if attempts.is_due(&change, now) {
                last = attempts.made(&change, now);
            }
        }
        // After 1, 2, 4 ... 256 seconds, then every 300.
        assert_eq!(last, 10 + (3000 - 511) / 300);
        let later = start + Duration::from_secs(3000) + FORGET_AFTER;
        attempts.expire(later);
        assert_eq!(attempts.made(&change, later), 1);
    }

    #[test]
    fn what_is_new_is_written_at_once() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        attempts.made(&change("a"), now);
        assert!(!attempts.is_due(&change("a"), now));
        assert!(attempts.is_due(&change("b"), now));
        let mut other = change("a");
        other.uid = "8".into();
        assert!(attempts.is_due(&other, now), "another one of that name");
        attempts.made(&change("b"), now);
        assert!(attempts.is_due(&change("a"), now));
    }
}
