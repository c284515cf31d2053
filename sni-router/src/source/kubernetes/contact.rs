//! Whether an API server is heard from.
//!
//! A watch that was resumed says nothing until something changes, so its health is read off the
//! answers to its requests: each watch has a client of its own that notes them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::Client;
use kube::client::Body;
use tokio::sync::Notify;
use tokio::time::timeout;
use tower::{ServiceExt as _, service_fn};
use tracing::{info, warn};

use super::section::Section;

/// The watches of one cluster, and which of them fail.
#[derive(Debug, Default)]
pub struct Contact {
    state: Mutex<State>,
    /// Woken when something is withheld, or no longer.
    dirty: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    failing: BTreeMap<Section, Failure>,
    /// Those that were failing, and since when they are answered.
    returned: BTreeMap<Section, Instant>,
    /// Those that were answered last.
    answering: BTreeSet<Section>,
    /// Failures so far, by section.
    errors: BTreeMap<Section, u64>,
}

/// A watch that fails.
#[derive(Debug)]
struct Failure {
    since: Instant,
    why: String,
    /// How often in a row the API server said that it does not give this.
    withheld: u32,
}

impl Failure {
    /// An API server that has just started knows neither all rights nor all kinds.
    fn is_withheld(&self) -> bool {
        self.withheld >= WITHHELD_TIMES
    }
}

impl Contact {
    pub fn new(dirty: Arc<Notify>) -> Self {
        Self {
            dirty,
            ..Self::default()
        }
    }

    /// How long the watch has been failing that fails the longest; `None` if none fails.
    pub fn lost_for(&self) -> Option<Duration> {
        let state = self.lock();
        let failing = state.failing.values();
        failing.map(|failure| failure.since.elapsed()).max()
    }

    /// How long no watch at all has been answered; `None` while one is.
    pub fn silent_for(&self) -> Option<Duration> {
        let state = self.lock();
        let failing = state.failing.values();
        let failing = failing.map(|failure| failure.since.elapsed());
        failing.min().filter(|_| state.answering.is_empty())
    }

    /// Why, in one line.
    pub fn why(&self) -> Option<String> {
        let state = self.lock();
        let (section, failure) = state.failing.iter().next()?;
        Some(format!("{}: {}", section.kind.as_str(), failure.why))
    }

    /// Whether a watch fails.
    pub fn is_failing(&self, section: &Section) -> bool {
        self.lock().failing.contains_key(section)
    }

    /// What the API server does not give, and why.
    pub fn withheld(&self) -> BTreeMap<Section, String> {
        let state = self.lock();
        let failing = state.failing.iter();
        failing
            .filter(|(_, failure)| failure.is_withheld())
            .map(|(section, failure)| (section.clone(), failure.why.clone()))
            .collect()
    }

    /// What may be otherwise by now than it is known: what fails, and what did so lately, since what
    /// shall be written may have been made without it.
    pub fn unsure(&self) -> BTreeSet<Section> {
        let mut state = self.lock();
        state
            .returned
            .retain(|_, since| since.elapsed() < MADE_WITHIN);
        let failing = state.failing.keys();
        failing.chain(state.returned.keys()).cloned().collect()
    }

    /// How often watches had to begin again because of an error.
    pub fn errors(&self) -> BTreeMap<Section, u64> {
        self.lock().errors.clone()
    }

    /// A watch has failed, where `is_withheld` because the API server does not give it. Says so once
    /// for every reason, and tells whether that is certain by now.
    pub fn failed(&self, cluster: &str, section: &Section, why: &str, is_withheld: bool) -> bool {
        let mut state = self.lock();
        *state.errors.entry(section.clone()).or_default() += 1;
        state.answering.remove(section);
        state.returned.remove(section);
        let last = state.failing.remove(section);
        let is_news = last.as_ref().is_none_or(|last| last.why != why);
        let was_withheld = last.as_ref().is_some_and(Failure::is_withheld);
        let times = last.as_ref().map_or(0, |last| last.withheld);
        let failure = Failure {
            since: last.map_or_else(Instant::now, |last| last.since),
            why: why.to_owned(),
            withheld: if is_withheld {
                times.saturating_add(1)
            } else {
                0
            },
        };
        let is_certain = failure.is_withheld();
        state.failing.insert(section.clone(), failure);
        drop(state);
        if is_certain != was_withheld || (is_certain && is_news) {
            self.dirty.notify_one();
        }
        if is_news {
            let kind = section.kind.as_str();
            let namespace = section.namespace.as_deref();
            warn!(
                cluster,
                kind, namespace, why, "cannot watch; what is known stays in force"
            );
        }
        is_certain
    }

    /// The API server answers a watch, or has answered a list to its end.
    pub fn answered(&self, cluster: &str, section: &Section) {
        let mut state = self.lock();
        state.answering.insert(section.clone());
        let Some(failure) = state.failing.remove(section) else {
            return;
        };
        state.returned.insert(section.clone(), Instant::now());
        let is_last = state.failing.is_empty();
        drop(state);
        if failure.is_withheld() {
            self.dirty.notify_one();
        }
        if is_last {
            let lost_s = failure.since.elapsed().as_secs();
            info!(cluster, lost_s, "the API server answers all watches again");
        }
    }

    /// `client`, for the requests of one watch.
    pub fn noting(
        self: &Arc<Self>,
        client: Client,
        cluster: &Arc<str>,
        section: &Section,
    ) -> Client {
        let (contact, cluster) = (Arc::clone(self), Arc::clone(cluster));
        let section = section.clone();
        let namespace = client.default_namespace().to_owned();
        let service = service_fn(move |request: axum::http::Request<Body>| {
            let client = client.clone();
            let (contact, cluster) = (Arc::clone(&contact), Arc::clone(&cluster));
            let section = section.clone();
            async move {
                // The answer to a list may have no end, or not be one.
                let query = request.uri().query().unwrap_or_default();
                let is_watch = query.split('&').any(|pair| pair == "watch=true");
                let response = timeout(ANSWER_WITHIN, client.send(request))
                    .await
                    .unwrap_or_else(|_| {
                        let why = format!("no answer within {ANSWER_WITHIN:?}");
                        Err(kube::Error::Service(why.into()))
                    })?;
                if is_watch && response.status().is_success() {
                    contact.answered(&cluster, &section);
                }
                Ok::<_, kube::Error>(response)
            }
        });
        Client::new(service.map_err(tower::BoxError::from), namespace)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// With the pauses between attempts, three to five seconds.
const WITHHELD_TIMES: u32 = 3;

/// What shall be written is made of what is known in a fraction of this.
const MADE_WITHIN: Duration = Duration::from_secs(5);

/// Until an answer begins: that of a watch at once, that of a list when its page is there.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::super::kind::Kind;
    use super::*;

    const A_MOMENT: Duration = Duration::from_millis(20);

    #[test]
    fn cluster_is_lost_as_long_as_the_watch_that_fails_longest_and_silent_only_when_all_fail() {
        let contact = Contact::default();
        let [one, other] = [Kind::Listener, Kind::Ingress].map(|kind| Section {
            kind,
            namespace: None,
        });
        assert!(contact.lost_for().is_none() && contact.silent_for().is_none());
        contact.answered("east", &other);
        contact.failed("east", &one, "403", false);
        sleep(A_MOMENT);
        assert!(contact.lost_for().unwrap() >= A_MOMENT);
        assert!(contact.silent_for().is_none(), "the other one is answered");

        contact.failed("east", &other, "gone", false);
        let (lost, silent) = (contact.lost_for(), contact.silent_for());
        assert!(lost > silent && silent.is_some(), "{lost:?} {silent:?}");

        // What fails now and then, each in its turn, has not failed all the time.
        contact.answered("east", &one);
        assert!(contact.lost_for().unwrap() < lost.unwrap());
        assert!(contact.silent_for().is_none());
        contact.answered("east", &other);
        assert!(contact.lost_for().is_none());
    }

    #[test]
    fn section_is_withheld_when_the_api_server_has_said_so_three_times_in_a_row() {
        let contact = Contact::default();
        let section = Section {
            kind: Kind::Ingress,
            namespace: Some("shop".into()),
        };
        let fails = |is_withheld| contact.failed("east", &section, "no", is_withheld);
        assert!(!fails(true) && !fails(true) && !fails(false));
        assert!(!fails(true) && !fails(true));
        assert!(contact.withheld().is_empty());
        assert!(fails(true) && fails(true));
        let why: Vec<_> = contact.withheld().into_values().collect();
        assert_eq!(why, ["no"]);
        assert!(contact.unsure().contains(&section));

        // What is made of it is not there at once.
        contact.answered("east", &section);
        assert!(contact.withheld().is_empty());
        assert!(!contact.is_failing(&section) && contact.unsure().contains(&section));
        assert!(!fails(true), "it begins again");
    }
}
