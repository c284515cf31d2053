//! Addresses of the external names that backends point to, kept fresh.
//!
//! Each name is asked for again when its record expires, for its IPv4 and its IPv6 addresses by
//! themselves. What is not answered keeps the addresses it had: a DNS server that is down must not
//! take working backends with it. Addresses are dropped when DNS says several times in a row that
//! there are none.

mod name;
mod system;

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use sni_router_core::manifest::Resolved;
use sni_router_core::name::Host;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use self::name::{Name, trouble};
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
    /// There were none, or no answer for IPv4 or for IPv6.
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

    /// Ends when every one of `names` has been asked for once, answered or not, so that
    /// [`Self::resolved`] has it. Those that are not wanted are waited for in vain.
    pub async fn asked_once(&self, names: &BTreeSet<Host>) {
        let mut resolved = self.resolved();
        let are_there = |known: &Arc<Resolved>| names.iter().all(|name| known.contains_key(name));
        // It can fail only when nothing is resolved any more.
        let _ = resolved.wait_for(are_there).await;
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
    /// The IPv4 addresses of `host`, and its IPv6 addresses: one of them fails without the other.
    fn resolve(&self, host: &Host) -> impl Future<Output = [Answer; 2]> + Send;
}

/// What DNS says of the addresses that a name has of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These, at least one, in any order; and the least of the records' times to live.
    Addrs(Vec<IpAddr>, Duration),
    /// There is none, says who must know it: no such name, or no records.
    Nothing,
    /// It does not say whether there are any. Why not is told in words, for the log.
    Failed(String),
}

/// The task that keeps names fresh.
struct Follower<R> {
    lookups: Arc<Lookups>,
    resolver: Arc<R>,
    wanted: watch::Receiver<Arc<BTreeSet<Host>>>,
    publish: watch::Sender<Arc<Resolved>>,
    names: HashMap<Host, Name>,
    asking: JoinSet<(Host, [Answer; 2])>,
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
                    // All that are there: a start with many names is one change, not many. Their
                    // tasks catch panics, so that none is an error.
                    let mut next = Some(answer);
                    while let Some(Ok((host, answers))) = next {
                        self.learn(&host, answers);
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
            self.names.entry(host.clone()).or_insert_with(Name::new);
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
                    let asked = AssertUnwindSafe(async { resolver.resolve(&host).await });
                    let answers = asked.catch_unwind().await;
                    (host, answers.unwrap_or_else(|_| panicked()))
                });
            }
        }
    }

    fn learn(&mut self, host: &Host, answers: [Answer; 2]) {
        let trouble = trouble(&answers);
        let count = match trouble {
            None => &self.lookups.answered,
            Some(_) => &self.lookups.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
        // Otherwise it is not wanted any more.
        if let Some(name) = self.names.get_mut(host) {
            name.learn(host, answers, trouble.as_deref());
        }
    }

    fn publish_what_is_known(&self) {
        let known: Resolved = self
            .names
            .iter()
            .filter_map(|(host, name)| Some((host.clone(), name.addrs()?)))
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

/// Of a look-up that is to be tried again like any other that failed.
fn panicked() -> [Answer; 2] {
    [(); 2].map(|()| Answer::Failed("the look-up panicked".to_owned()))
}

/// Look-ups at once, so that thousands of names do not flood the DNS server.
const AT_ONCE: usize = 64;

#[cfg(test)]
mod tests;
