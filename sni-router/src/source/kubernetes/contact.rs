//! Whether an API server is heard from.
//!
//! A watch that was resumed says nothing until something changes, so its health is read off the
//! answers to its requests: each watch has a client of its own that notes them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::Client;
use kube::client::Body;
use tokio::time::timeout;
use tower::{ServiceExt as _, service_fn};
use tracing::{info, warn};

use super::mirror::Section;

/// The watches of one cluster, and which of them fail.
#[derive(Debug, Default)]
pub struct Contact {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when, and why.
    failing: BTreeMap<Section, (Instant, String)>,
    /// Those that were answered last.
    answering: BTreeSet<Section>,
    /// Failures so far, by section.
    errors: BTreeMap<Section, u64>,
}

impl Contact {
    /// How long the watch has been failing that fails the longest; `None` if none fails.
    pub fn lost_for(&self) -> Option<Duration> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state
            .failing
            .values()
            .map(|(since, _)| since.elapsed())
            .max()
    }

    /// How long no watch at all has been answered; `None` while one is.
    pub fn silent_for(&self) -> Option<Duration> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let failing = state.failing.values().map(|(since, _)| since.elapsed());
        failing.min().filter(|_| state.answering.is_empty())
    }

    /// Why, in one line.
    pub fn why(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (section, (_, why)) = state.failing.iter().next()?;
        Some(format!("{}: {why}", section.kind.as_str()))
    }

    /// How often watches had to begin again because of an error.
    pub fn errors(&self) -> BTreeMap<Section, u64> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.errors.clone()
    }

    /// A watch has failed. Says so once for every reason.
    pub fn failed(&self, cluster: &str, section: &Section, why: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state.errors.entry(section.clone()).or_default() += 1;
        state.answering.remove(section);
        let now = Instant::now();
        let since = state.failing.get(section).map_or(now, |(since, _)| *since);
        let is_news = state
            .failing
            .get(section)
            .is_none_or(|(_, last)| last != why);
        state
            .failing
            .insert(section.clone(), (since, why.to_owned()));
        drop(state);
        if is_news {
            let kind = section.kind.as_str();
            let namespace = section.namespace.as_deref();
            warn!(
                cluster,
                kind, namespace, why, "cannot watch; what is known stays in force"
            );
        }
    }

    /// The API server answers a watch, or has answered a list to its end.
    pub fn answered(&self, cluster: &str, section: &Section) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.answering.insert(section.clone());
        if let Some((since, _)) = state.failing.remove(section)
            && state.failing.is_empty()
        {
            drop(state);
            let lost_s = since.elapsed().as_secs();
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
}

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
        contact.failed("east", &one, "403");
        sleep(A_MOMENT);
        assert!(contact.lost_for().unwrap() >= A_MOMENT);
        assert!(contact.silent_for().is_none(), "the other one is answered");

        contact.failed("east", &other, "gone");
        let (lost, silent) = (contact.lost_for(), contact.silent_for());
        assert!(lost > silent && silent.is_some(), "{lost:?} {silent:?}");

        // What fails now and then, each in its turn, has not failed all the time.
        contact.answered("east", &one);
        assert!(contact.lost_for().unwrap() < lost.unwrap());
        assert!(contact.silent_for().is_none());
        contact.answered("east", &other);
        assert!(contact.lost_for().is_none());
    }
}
