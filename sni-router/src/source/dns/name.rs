//! What is known of one name: the addresses that are in force, and when to ask again.

use std::mem;
use std::net::IpAddr;
use std::time::Duration;

use sni_router_core::name::Host;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Answer;

/// What is known of a name.
pub(super) struct Name {
    /// When to ask again; `None` while it is being asked for.
    pub(super) due: Option<Instant>,
    /// IPv4 and IPv6.
    families: [Family; 2],
    /// Whether there was an outcome, whatever it was.
    asked: bool,
    /// In a row, since both families were last answered, and had an address.
    failures: u32,
}

/// What is known of one family of a name's addresses.
#[derive(Default)]
struct Family {
    /// Sorted.
    addrs: Vec<IpAddr>,
    /// Answers in a row that there is none, when the other family had none either.
    negatives: u32,
}

impl Name {
    /// Nothing is known yet, so that it is due at once.
    pub(super) fn new() -> Self {
        Self {
            due: Some(Instant::now()),
            families: Default::default(),
            asked: false,
            failures: 0,
        }
    }

    /// All of them, sorted. `None` before the first outcome.
    pub(super) fn addrs(&self) -> Option<Vec<IpAddr>> {
        self.asked.then(|| self.in_force())
    }

    /// Takes what came of asking; `trouble` is what is wrong with it.
    pub(super) fn learn(&mut self, host: &Host, answers: [Answer; 2], trouble: Option<&str>) {
        let before = self.addrs();
        let ttl = self.take(host, answers);
        self.asked = true;
        let pause = match trouble {
            None => {
                self.succeeded(host, before, ttl);
                ttl
            }
            // A family that was answered is kept fresh all the same.
            Some(error) => ttl.min(self.failed(host, before, error)),
        };
        self.due = Some(Instant::now() + pause);
    }

    /// Returns how long it holds.
    fn take(&mut self, host: &Host, answers: [Answer; 2]) -> Duration {
        let are_some = answers
            .iter()
            .any(|answer| matches!(answer, Answer::Addrs(..)));
        let mut least = TTL_MOST;
        for (family, answer) in self.families.iter_mut().zip(answers) {
            match answer {
                Answer::Addrs(addrs, ttl) => {
                    *family = Family::of(addrs);
                    least = least.min(ttl.max(TTL_LEAST));
                }
                // The name lives, without this family.
                Answer::Nothing if are_some => *family = Family::default(),
                Answer::Nothing => family.take_nothing(host),
                Answer::Failed(_) => family.negatives = 0,
            }
        }
        least
    }

    fn in_force(&self) -> Vec<IpAddr> {
        let addrs = self.families.iter().flat_map(|family| &family.addrs);
        addrs.copied().collect()
    }

    fn succeeded(&mut self, host: &Host, before: Option<Vec<IpAddr>>, ttl: Duration) {
        let addrs = self.in_force();
        if self.failures > 0 {
            info!("{host} resolves again, to {addrs:?}");
        } else if before.as_ref() != Some(&addrs) {
            debug!("{host} resolves to {addrs:?} for {ttl:?}");
        }
        self.failures = 0;
    }

    fn failed(&mut self, host: &Host, before: Option<Vec<IpAddr>>, error: &str) -> Duration {
        let pause = (RETRY_LEAST * (1 << self.failures.min(16))).min(RETRY_MOST);
        self.failures = self.failures.saturating_add(1);
        let addrs = self.in_force();
        // Once: it will be asked for every minute as long as it lasts.
        if self.failures == 1 {
            let rest = if addrs.is_empty() {
                "its backends have no endpoint (check spec.externalName and the DNS server)"
                    .to_owned()
            } else {
                format!("these addresses are in force: {addrs:?}")
            };
            warn!("cannot resolve {host}: {error}; {rest}");
        } else if before.is_some_and(|before| before.is_empty()) && !addrs.is_empty() {
            info!("{host} has addresses again: {addrs:?}; still: {error}");
        }
        pause
    }
}

impl Family {
    fn of(mut addrs: Vec<IpAddr>) -> Self {
        // Servers turn the order to spread load; that is no change.
        addrs.sort_unstable();
        addrs.dedup();
        Self {
            addrs,
            negatives: 0,
        }
    }

    /// Not believed at once: for a moment, a server that has just started may know no better, or
    /// one whose zone is being written.
    fn take_nothing(&mut self, host: &Host) {
        self.negatives = self.negatives.saturating_add(1);
        if self.negatives >= NEGATIVES && !self.addrs.is_empty() {
            let addrs = mem::take(&mut self.addrs);
            warn!("{addrs:?} of {host} dropped: DNS said {NEGATIVES} times that there are none");
        }
    }
}

/// What is wrong with answers, for the log. That a family has no address is fine where the other
/// has one.
pub(super) fn trouble(answers: &[Answer; 2]) -> Option<String> {
    use Answer::{Failed, Nothing};
    match answers {
        [Failed(v4), Failed(v6)] if v4 == v6 => Some(v4.clone()),
        [Failed(v4), Failed(v6)] => Some(format!("A: {v4}; AAAA: {v6}")),
        [Failed(error), _] => Some(format!("A: {error}")),
        [_, Failed(error)] => Some(format!("AAAA: {error}")),
        [Nothing, Nothing] => Some("there is no such name, or no address of it".to_owned()),
        _ => None,
    }
}

/// Bounds of the time to live. Zero means "do not cache", but asking for every connection is not
/// what a backend needs; above an hour, nobody remembers why an old address is still used.
pub(super) const TTL_LEAST: Duration = Duration::from_secs(5);
pub(super) const TTL_MOST: Duration = Duration::from_secs(3600);

/// So many answers in a row that there is no address are believed. With the pauses below, that is
/// 3 s after the first, or later.
const NEGATIVES: u32 = 3;

/// After a failure: doubled each time, from the first to the second.
const RETRY_LEAST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);
