//! One watch: a list, then what changes, for ever.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff, Event};
use kube::{Api, Client};
use tokio::time::sleep;
use tracing::warn;

use super::contact::Contact;
use super::kind::Kind;
use super::mirror::Mirror;
use super::object::Object;
use super::section::{Held, Objects, Section};

/// What a watch needs.
pub struct Watch {
    pub cluster: Arc<str>,
    pub client: Client,
    pub section: Section,
    /// Which objects, by label.
    pub selector: Option<String>,
    pub mirror: Arc<Mirror>,
    pub contact: Arc<Contact>,
}

impl Watch {
    /// Keeps the section of the mirror up to date.
    pub async fn run(self) {
        let mut backoff = DefaultBackoff::default();
        loop {
            if self.section.kind == Kind::Secret {
                self.mirror.listeners_listed().await;
                tokio::select! {
                    () = self.follow(&mut backoff) => {}
                    () = self.mirror.secrets_wanted(&self.section) => {}
                }
            } else {
                self.follow(&mut backoff).await;
            }
        }
    }

    /// Lists and watches until something is so wrong that it must be listed again.
    async fn follow(&self, backoff: &mut DefaultBackoff) {
        let mut events = pin!(watcher::watcher(self.api(), self.config()));
        let mut listed = Objects::new();
        let kind = self.section.kind;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => {
                    listed.insert(object.id(), Held::of(kind, &object));
                }
                Ok(Event::InitDone) => {
                    self.mirror
                        .replace(&self.section, std::mem::take(&mut listed));
                    self.contact.answered(&self.cluster, &self.section);
                    backoff.reset();
                }
                Ok(Event::Apply(object)) => {
                    self.mirror
                        .put(&self.section, object.id(), Held::of(kind, &object));
                }
                Ok(Event::Delete(object)) => self.mirror.remove(&self.section, &object.id()),
                Err(error) => {
                    let why = self.words(&error);
                    let (contact, section) = (&self.contact, &self.section);
                    if contact.failed(&self.cluster, section, &why, is_withheld(&error)) {
                        self.withhold();
                    }
                    let pause = backoff.next().unwrap_or(LONGEST_PAUSE);
                    sleep(pause.min(LONGEST_PAUSE)).await;
                    // The event is lost that could not be decoded.
                    if let watcher::Error::WatchFailed(kube::Error::SerdeError(_)) = error {
                        return;
                    }
                }
            }
        }
    }

    /// Nothing waits for the section any more.
    fn withhold(&self) {
        let Some(objects) = self.mirror.withhold(&self.section) else {
            return;
        };
        let kind = self.section.kind.as_str();
        let namespace = self.section.namespace.as_deref();
        warn!(
            cluster = &*self.cluster,
            kind,
            namespace,
            objects,
            "withheld by the API server; what was known of them is served"
        );
    }

    fn api(&self) -> Api<Object> {
        let client = self
            .contact
            .noting(self.client.clone(), &self.cluster, &self.section);
        let resource = self.section.kind.resource();
        match &self.section.namespace {
            Some(namespace) if self.section.kind.is_namespaced() => {
                Api::namespaced_with(client, namespace, &resource)
            }
            _ => Api::all_with(client, &resource),
        }
    }

    fn config(&self) -> watcher::Config {
        let mut config = watcher::Config::default()
            .timeout(WATCH_TIMEOUT_S)
            .page_size(PAGE);
        config.label_selector.clone_from(&self.selector);
        match (self.section.kind, &self.section.namespace) {
            (Kind::Secret, _) => config.fields("type=kubernetes.io/tls"),
            (Kind::Namespace, Some(name)) => config.fields(&format!("metadata.name={name}")),
            _ => config,
        }
    }

    /// What is wrong, and what to do where that is known.
    fn words(&self, error: &watcher::Error) -> String {
        let cause = match error {
            watcher::Error::WatchError(status) => return status.message.clone(),
            watcher::Error::NoResourceVersion => return error.to_string(),
            watcher::Error::InitialListFailed(cause)
            | watcher::Error::WatchStartFailed(cause)
            | watcher::Error::WatchFailed(cause) => cause,
        };
        match cause {
            kube::Error::Api(status)
                if status.code == 404 && self.section.kind == Kind::Listener =>
            {
                "the API server does not know Listeners (apply what `sni-router crd` prints)".into()
            }
            kube::Error::Api(status) if status.code == 404 => {
                let resource = self.section.kind.name();
                format!("the API server does not know {resource}")
            }
            kube::Error::Api(status) if status.code == 403 => {
                format!("{} ({})", status.message, self.section.remedy())
            }
            kube::Error::Api(status) => status.message.clone(),
            // The decoder's words quote values.
            kube::Error::SerdeError(_) => "an answer that cannot be decoded".into(),
            other => words(other),
        }
    }
}

/// Whether an API server that is well says that it does not give this.
fn is_withheld(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => {
            matches!(status.code, 403 | 404)
        }
        _ => false,
    }
}

/// An error with its causes, which say what the outermost one leaves out.
pub fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

/// A connection on which nothing comes is given up five seconds later than the server would have
/// ended the watch. So an API server that vanished without a word is missed within a minute.
const WATCH_TIMEOUT_S: u32 = 55;

/// Objects of one answer to a list. Fewer take more round trips, more take more memory.
const PAGE: u32 = 1000;

/// A router should not be the last to know that the API server is back.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
