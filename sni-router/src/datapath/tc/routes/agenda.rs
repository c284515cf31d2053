//! When to look at flows, and because of what.

use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::news::News;

/// What has been told and not been looked at, or only once.
pub(super) struct Agenda {
    /// From when on.
    first: (Instant, News),
    /// Once more, for flows that were being handed over, or adopted, meanwhile, and for routes that come a moment
    /// later than links go.
    again: VecDeque<(Instant, News)>,
    rested: Instant,
}

impl Agenda {
    /// These have just been told.
    pub(super) fn of(news: News) -> Self {
        let now = Instant::now();
        Self {
            first: (now, news),
            again: VecDeque::new(),
            rested: now,
        }
    }

    /// More has been told.
    pub(super) fn add(&mut self, news: &News) {
        let (at, waiting) = &mut self.first;
        if waiting.is_empty() {
            *at = Instant::now() + A_MOMENT;
        }
        waiting.add(news);
    }

    /// Nothing is to be done for so long.
    pub(super) fn rest(&mut self, rest: Duration) {
        self.rested = Instant::now() + rest;
    }

    /// Waits until it is time to look, and says because of what, and whether for the last time. Nothing is lost where
    /// it is dropped before.
    pub(super) async fn next(&mut self) -> (News, bool) {
        let first = (!self.first.1.is_empty()).then_some(self.first.0);
        let again = self.again.front().map(|(at, _)| *at);
        let Some(at) = first.into_iter().chain(again).min() else {
            return pending().await;
        };
        sleep_until(at.max(self.rested)).await;
        if first != Some(at)
            && let Some((_, news)) = self.again.pop_front()
        {
            return (news, true);
        }
        let news = std::mem::take(&mut self.first.1);
        let at = Instant::now() + A_WHILE;
        self.again.push_back((at, news.clone()));
        (news, false)
    }
}

/// Changes come in groups, and what is made anew may have the number of the one before.
const A_MOMENT: Duration = Duration::from_millis(100);

/// Longer than most hand-overs, and than it takes to notice that a route has gone.
const A_WHILE: Duration = Duration::from_secs(6);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn everything_is_looked_at_twice_and_the_second_time_not_too_early() {
        let mut agenda = Agenda::of(News::of_all());
        let start = Instant::now();
        assert_eq!(agenda.next().await, (News::of_all(), false));
        assert_eq!(start.elapsed(), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(5)).await;
        agenda.add(&News::of_all());
        let (_, is_last) = agenda.next().await;
        assert!(!is_last);
        let second = start.elapsed();
        assert!(second >= Duration::from_secs(5) + A_MOMENT, "{second:?}");
        agenda.rest(Duration::from_secs(30));
        for at in [second + Duration::from_secs(30); 2] {
            assert!(agenda.next().await.1);
            let elapsed = start.elapsed();
            assert!(elapsed >= at && elapsed < at + A_MOMENT, "{elapsed:?}");
        }
        agenda.add(&News::of_all());
        let begun = Instant::now();
        assert!(!agenda.next().await.1);
        assert!(agenda.next().await.1);
        assert!(begun.elapsed() >= A_MOMENT + A_WHILE);
        assert!(agenda.first.1.is_empty() && agenda.again.is_empty());
    }
}
