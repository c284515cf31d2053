//! What it costs connections that somebody looks: new connections, in turns with and without a scrape of
//! the metrics and a list of the connections every second.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::load::Load;
use super::measure::{Bench, Outcome};
use super::system;

impl Bench<'_> {
    /// Puts the load on it again and again. The usual results are those of the times in which it is
    /// scraped.
    pub(super) fn scraped(&mut self, load: &Load) -> Result<Outcome> {
        let mut plain = BTreeMap::new();
        let mut scraped = BTreeMap::new();
        let (mut errors, mut report, mut scrapes) = (0, None, 0);
        for turn in TURNS {
            let outcome = match turn {
                Turn::Plain => self.timed(load)?,
                Turn::Scraped => self.looked_at(load, &mut scrapes)?,
            };
            let sums = match turn {
                Turn::Plain => &mut plain,
                Turn::Scraped => &mut scraped,
            };
            let share = 1.0 / (TURNS.len() / 2) as f64;
            for (key, value) in outcome.results {
                *sums.entry(key).or_insert(0.0) += value * share;
            }
            errors += outcome.errors;
            if report.is_none() || outcome.errors > 0 {
                report = Some(outcome.report);
            }
        }
        if let (Some(with), Some(without)) = (scraped.get(RATE), plain.get(RATE)) {
            let share = with / without;
            scraped.insert(UNSCRAPED_RATE.to_owned(), *without);
            scraped.insert(SCRAPED_SHARE.to_owned(), share);
        }
        if let Some(without) = plain.get(SLOWEST) {
            scraped.insert(UNSCRAPED_SLOWEST.to_owned(), *without);
        }
        scraped.insert("scrapes".to_owned(), f64::from(scrapes));
        Ok(Outcome {
            results: scraped,
            errors,
            report: report.unwrap_or_default(),
        })
    }

    /// The load once, while it is looked at.
    fn looked_at(&mut self, load: &Load, scrapes: &mut u32) -> Result<Outcome> {
        let time = self.tools.time;
        let mut command = self.generate(load, time / 4, time);
        let mut next = Instant::now();
        self.watch(load, &mut command, |this| {
            if Instant::now() >= next {
                next += EVERY;
                for path in ["/metrics", "/api/v1/connections?limit=1000"] {
                    let answer = system::ask(&this.place.lab, path)?;
                    ensure!(!answer.is_empty(), "{path} says nothing");
                }
                *scrapes += 1;
            }
            Ok(())
        })
    }
}

#[derive(Clone, Copy)]
enum Turn {
    Plain,
    Scraped,
}

/// In an order in which a machine that becomes steadily slower, or faster, favours neither.
const TURNS: [Turn; 8] = [
    Turn::Plain,
    Turn::Scraped,
    Turn::Scraped,
    Turn::Plain,
    Turn::Scraped,
    Turn::Plain,
    Turn::Plain,
    Turn::Scraped,
];

/// The rate with scrapes, by that without.
pub const SCRAPED_SHARE: &str = "scraped_share";
/// The rate without.
pub const UNSCRAPED_RATE: &str = "unscraped_conns_per_s";
/// The time that one connection of a hundred exceeds, without.
pub const UNSCRAPED_SLOWEST: &str = "unscraped_p99_us";
const RATE: &str = "conns_per_s";
const SLOWEST: &str = "p99_us";
const EVERY: Duration = Duration::from_secs(1);
