//! Whether an API server is heard from.
//!
//! A watch that was resumed says nothing until something changes, so its health is read off the
//! answers to its requests: each watch has a client of its own that notes them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::Client;
use kube::client::Body;
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
    /// Since when one or another fails.
    lost: Option<Instant>,
    /// Failures so far, by section.
    errors: BTreeMap<Section, u64>,
}

impl Contact {
    /// How long at least one watch has been failing.
    pub fn lost_for(&self) -> Option<Duration> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lost.map(|since| since.elapsed())
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
        let now = Instant::now();
        state.lost.get_or_insert(now);
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

    /// The API server answers a watch.
    fn answered(&self, cluster: &str, section: &Section) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.failing.remove(section).is_some() && state.failing.is_empty() {
            let lost = state.lost.take().map(|since| since.elapsed().as_secs());
            drop(state);
            info!(
                cluster,
                lost_s = lost,
                "the API server answers all watches again"
            );
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
                let response = client.send(request).await?;
                if response.status().is_success() {
                    contact.answered(&cluster, &section);
                }
                Ok::<_, kube::Error>(response)
            }
        });
        Client::new(service.map_err(tower::BoxError::from), namespace)
    }
}
