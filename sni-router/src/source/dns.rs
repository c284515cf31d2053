//! Addresses of the external names that backends point to, kept fresh.
//!
//! Each name is asked for again when its record expires. A name that stops resolving keeps the
//! addresses it had: a DNS server that is down must not take working backends with it.

mod system;

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sni_router_core::manifest::Resolved;
use sni_router_core::name::Host;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

pub use self::system::SystemResolver;

/// Resolves names as long as this lives.
pub struct Dns {
    names: watch::Sender<Arc<BTreeSet<Host>>>,
    resolved: watch::Receiver<Arc<Resolved>>,
    lookups: Arc<Lookups>,
    task: JoinHandle<()>,
}

/// Look-ups so far, by what came of them.
#[derive(Debug, Default)]
pub struct Lookups {
    /// There were addresses.
    pub answered: AtomicU64,
    /// There were none, or no answer.
    pub failed: AtomicU64,
}

impl Dns {
    /// Begins without names. Needs a tokio runtime with time.
    pub fn start(resolver: impl Resolve) -> Self {
        let (names, wanted) = watch::channel(Arc::default());
        let (publish, resolved) = watch::channel(Arc::default());
        let lookups = Arc::new(Lookups::default());
        let follower = Follower {
            lookups: Arc::clone(&lookups),
            resolver: Arc::new(resolver),
            wanted,
            publish,
            names: HashMap::new(),
            asking: JoinSet::new(),
        };
        Self {
            names,
            resolved,
            lookups,
            task: tokio::spawn(follower.run()),
        }
    }

    /// Says which names are wanted from now on. New ones are asked for at once; what is known
    /// of the others is forgotten.
    pub fn want(&self, names: &BTreeSet<Host>) {
        self.names.send_if_modified(|wanted| {
            let differs = **wanted != *names;
            if differs {
                *wanted = Arc::new(names.clone());
            }
            differs
        });
    }

    /// What is known, and what will be. A name that could not be resolved so far is there
    /// without an address.
    pub fn resolved(&self) -> watch::Receiver<Arc<Resolved>> {
        self.resolved.clone()
    }

    /// How its look-ups go.
    pub fn lookups(&self) -> Arc<Lookups> {
        Arc::clone(&self.lookups)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Asks for the addresses of a name.
pub trait Resolve: Send + Sync + 'static {
    /// The IPv4 and IPv6 addresses of `host`, at least one, and how long they hold. An error is
    /// told in words, for the log.
    fn resolve(&self, host: &Host) -> impl Future<Output = Result<Answer, String>> + Send;
}

/// Addresses, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// In any order.
    pub addrs: Vec<IpAddr>,
    /// The least of the records' times to live.
    pub ttl: Duration,
}

/// The task that keeps names fresh.
struct Follower<R> {
    lookups: Arc<Lookups>,
    resolver: Arc<R>,
    wanted: watch::Receiver<Arc<BTreeSet<Host>>>,
    publish: watch::Sender<Arc<Resolved>>,
    names: HashMap<Host, Name>,
    asking: JoinSet<(Host, Result<Answer, String>)>,
}

/// What is known of a name.
struct Name {
    /// Sorted. `None` before the first answer, whatever it was.
    addrs: Option<Vec<IpAddr>>,
    /// When to ask again; `None` while it is being asked for.
    due: Option<Instant>,
    /// In a row, since the last answer that had addresses.
    failures: u32,
}

impl<R: Resolve> Follower<R> {
    async fn run(mut self) {
        loop {
            self.ask_for_due();
            let next = self.names.values().filter_map(|name| name.due).min();
            tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.take_wanted(),
                    Err(_) => return,
                },
                Some(answer) = self.asking.join_next() => {
                    // All that are there: a start with many names is one change, not many.
                    let mut next = Some(answer);
                    while let Some(answer) = next {
                        match answer {
                            Ok((host, answer)) => self.learn(host, answer),
                            Err(error) => warn!("a DNS look-up panicked: {error}"),
                        }
                        next = self.asking.try_join_next();
                    }
                }
                // With all places taken, an answer comes first.
                () = sleep_until(next.unwrap_or_else(Instant::now)),
                    if next.is_some() && self.asking.len() < AT_ONCE => continue,
            }
            self.publish_what_is_known();
        }
    }

    fn take_wanted(&mut self) {
        let wanted = Arc::clone(&self.wanted.borrow_and_update());
        self.names.retain(|host, _| wanted.contains(host));
        for host in wanted.iter() {
            self.names.entry(host.clone()).or_insert_with(|| Name {
                addrs: None,
                due: Some(Instant::now()),
                failures: 0,
            });
        }
    }

    fn ask_for_due(&mut self) {
        let now = Instant::now();
        for (host, name) in &mut self.names {
            if self.asking.len() >= AT_ONCE {
                return;
            }
            if name.due.is_some_and(|due| due <= now) {
                name.due = None;
                let (resolver, host) = (Arc::clone(&self.resolver), host.clone());
                self.asking.spawn(async move {
                    let answer = resolver.resolve(&host).await;
                    (host, answer)
                });
            }
        }
    }

    fn learn(&mut self, host: Host, answer: Result<Answer, String>) {
        let count = match &answer {
            Ok(_) => &self.lookups.answered,
            Err(_) => &self.lookups.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
        // Not wanted any more.
        let Some(name) = self.names.get_mut(&host) else {
            return;
        };
        let pause = match answer {
            Ok(answer) => name.succeeded(&host, answer),
            Err(error) => name.failed(&host, &error),
        };
        name.due = Some(Instant::now() + pause);
    }

    fn publish_what_is_known(&self) {
        let known: Resolved = self
            .names
            .iter()
            .filter_map(|(host, name)| Some((host.clone(), name.addrs.clone()?)))
            .collect();
        self.publish.send_if_modified(|last| {
            let differs = **last != known;
            if differs {
                *last = Arc::new(known);
            }
            differs
        });
    }
}

impl Name {
    fn succeeded(&mut self, host: &Host, mut answer: Answer) -> Duration {
        // Servers turn the order to spread load; that is no change.
        answer.addrs.sort_unstable();
        answer.addrs.dedup();
        let pause = answer.ttl.clamp(TTL_LEAST, TTL_MOST);
        if self.failures > 0 {
            info!("{host} resolves again, to {:?}", answer.addrs);
        } else if self.addrs.as_ref() != Some(&answer.addrs) {
            debug!("{host} resolves to {:?} for {pause:?}", answer.addrs);
        }
        self.failures = 0;
        self.addrs = Some(answer.addrs);
        pause
    }

    fn failed(&mut self, host: &Host, error: &str) -> Duration {
        let pause = (RETRY_LEAST * (1 << self.failures.min(16))).min(RETRY_MOST);
        self.failures = self.failures.saturating_add(1);
        let addrs = self.addrs.get_or_insert_default();
        // Once: it will be asked for every minute as long as it lasts.
        if self.failures == 1 {
            let rest = if addrs.is_empty() {
                "its backends have no endpoint (check spec.externalName and the DNS server)"
                    .to_owned()
            } else {
                format!("the last addresses stay in force: {addrs:?}")
            };
            warn!("cannot resolve {host}: {error}; {rest}");
        }
        pause
    }
}

/// Bounds of the time to live. Zero means "do not cache", but asking for every connection is not
/// what a backend needs; above an hour, nobody remembers why an old address is still used.
const TTL_LEAST: Duration = Duration::from_secs(5);
const TTL_MOST: Duration = Duration::from_secs(3600);

/// After a failure: doubled each time, from the first to the second.
const RETRY_LEAST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);

/// Look-ups at once, so that thousands of names do not flood the DNS server.
const AT_ONCE: usize = 64;

#[cfg(test)]
mod tests;
