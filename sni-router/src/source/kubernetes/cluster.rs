//! One cluster: its client, its watches, and what is in force of it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use sni_router_core::model::Cluster;
use sni_router_core::status::Desired;
use tokio::sync::{Notify, watch as channel};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::cache::{Cache, CacheError, Files};
use super::connect::{Access, ConnectError};
use super::contact::Contact;
use super::definition::{self, Problems};
use super::kind::Kind;
use super::mirror::Mirror;
use super::section::Section;
use super::watch::{Watch, words};
use super::writer::{Writer, Writing, Written};

/// What is watched, in every cluster.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// All where there are none.
    pub namespaces: Vec<String>,
    /// Label selectors.
    pub listeners: Option<String>,
    pub ingresses: Option<String>,
    /// Whether Secrets are read at all.
    pub secrets: bool,
}

/// What all clusters have in common.
pub struct Common {
    pub scope: Scope,
    pub writing: Writing,
    /// Woken by every change of any cluster.
    pub dirty: Arc<Notify>,
    /// What shall be written.
    pub wanted: channel::Sender<Option<Arc<Desired>>>,
    /// Whether the process ends.
    pub ending: channel::Sender<bool>,
}

/// A cluster that is watched as long as this lives.
pub struct Watched {
    /// As logs and metrics call it.
    pub label: Arc<str>,
    /// As its objects are marked.
    pub name: Cluster,
    pub mirror: Arc<Mirror>,
    pub contact: Arc<Contact>,
    /// What has come of writing status and events.
    pub written: Arc<Written>,
    /// What is wrong with its definition of Listener.
    definition: Problems,
    cache: Option<Cache>,
    kept: Mutex<Kept>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Kept {
    /// What was written to the cache last.
    saved: Option<Files>,
    /// Whether the cluster is no longer ours.
    is_forgotten: bool,
    save_error: Option<String>,
}

impl Watched {
    /// Begins to watch.
    pub async fn start(
        name: Cluster,
        access: &Access,
        cache: Option<Cache>,
        common: &Common,
    ) -> Result<Self, ConnectError> {
        let label: Arc<str> = match name.is_unnamed() {
            true => ONLY_CLUSTER.into(),
            false => name.as_str().into(),
        };
        let (client, renewal) = access.client().await?;
        let scope = &common.scope;
        let mirror = Arc::new(Mirror::new(sections(scope), Arc::clone(&common.dirty)));
        if let Some(cached) = load(cache.clone(), &label).await {
            mirror.remember(cached);
        }
        let contact = Arc::new(Contact::new(Arc::clone(&common.dirty)));
        let definition = Problems::default();
        let mut tasks = JoinSet::new();
        if let Some(renewal) = renewal {
            tasks.spawn(renewal.run(Arc::clone(&label)));
        }
        for section in sections(scope) {
            let watch = Watch {
                cluster: Arc::clone(&label),
                client: client.clone(),
                selector: match section.kind {
                    Kind::Listener => scope.listeners.clone(),
                    Kind::Ingress => scope.ingresses.clone(),
                    _ => None,
                },
                section,
                mirror: Arc::clone(&mirror),
                contact: Arc::clone(&contact),
            };
            tasks.spawn(watch.run());
        }
        tasks.spawn(watch_definition(
            Arc::clone(&label),
            client.clone(),
            Arc::clone(&definition),
            Arc::clone(&common.dirty),
        ));
        let written = Arc::default();
        let writer = Writer {
            label: Arc::clone(&label),
            cluster: name.clone(),
            client,
            mirror: Arc::clone(&mirror),
            contact: Arc::clone(&contact),
            definition: Arc::clone(&definition),
            writing: common.writing.clone(),
            written: Arc::clone(&written),
            wanted: common.wanted.subscribe(),
            ending: common.ending.subscribe(),
            told: None,
        };
        tasks.spawn(writer.run());
        Ok(Self {
            label,
            name,
            written,
            mirror,
            contact,
            definition,
            cache,
            kept: Mutex::default(),
            _tasks: tasks,
        })
    }

    /// What is in force: what the API server says, what was known of sections that it withholds, or, as
    /// long as one is awaited, all that was known before the start; `None` if nothing is known.
    pub fn files(&self, may_be_cached: bool) -> Option<Files> {
        if self.mirror.is_complete() {
            return Some(self.mirror.files());
        }
        self.mirror.cached().filter(|_| may_be_cached)
    }

    /// What is in force of `old`, which was reached in another way, stays so until the API server has
    /// answered.
    pub fn inherit(&self, old: &Self) {
        if let Some(files) = old.files(true) {
            self.mirror.remember(files);
        }
    }

    /// How long what is in force may have been outdated; `None` while the API server answers.
    pub fn stale_for(&self) -> Option<Duration> {
        let lost = self.contact.lost_for();
        let is_cached = !self.mirror.is_complete() && self.mirror.cached().is_some();
        lost.or(is_cached.then_some(Duration::ZERO))
    }

    /// What is wrong with the definition of Listener.
    pub fn definition_problems(&self) -> Vec<&'static str> {
        let problems = self.definition.lock();
        problems.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes what is in force, once nothing is awaited, to the disk, unless it is there. Blocks.
    pub fn save(&self) {
        let Some(cache) = self.cache.as_ref().filter(|_| self.mirror.is_complete()) else {
            return;
        };
        let files = self.mirror.files();
        let is_saved = |kept: &Kept| kept.is_forgotten || kept.saved.as_ref() == Some(&files);
        if is_saved(&self.kept()) {
            return;
        }
        let outcome = cache.save(&files).map_err(|error| error.to_string());
        let mut kept = self.kept();
        // It may have been forgotten meanwhile.
        if kept.is_forgotten {
            drop(kept);
            return self.forget();
        }
        match outcome {
            Ok(()) => {
                kept.saved = Some(files);
                kept.save_error = None;
            }
            Err(why) if kept.save_error.as_ref() != Some(&why) => {
                warn!(
                    cluster = &*self.label,
                    why, "cannot keep the cluster's state"
                );
                kept.save_error = Some(why);
            }
            Err(_) => {}
        }
    }

    /// Forgets what is on the disk: the cluster is no longer ours.
    pub fn forget(&self) {
        self.kept().is_forgotten = true;
        if let Some(Err(error)) = self.cache.as_ref().map(Cache::remove) {
            warn!(cluster = &*self.label, %error, "cannot remove the cluster's state");
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn load(cache: Option<Cache>, label: &Arc<str>) -> Option<Files> {
    let cache = cache?;
    match spawn_blocking(move || cache.load()).await.ok()? {
        Ok(files) => files,
        Err(error @ CacheError::Wrong { .. }) => {
            error!(cluster = &**label, "{error}");
            None
        }
        Err(error) => {
            warn!(cluster = &**label, "{error}");
            None
        }
    }
}

/// A watch for each.
fn sections(scope: &Scope) -> Vec<Section> {
    let everywhere = vec![None];
    let some: Vec<_> = scope.namespaces.iter().cloned().map(Some).collect();
    let mut sections = Vec::new();
    for kind in Kind::ALL {
        let namespaces = match kind {
            Kind::Secret if !scope.secrets => continue,
            Kind::IngressClass => &everywhere,
            _ if some.is_empty() => &everywhere,
            _ => &some,
        };
        sections.extend(namespaces.iter().map(|namespace| Section {
            kind,
            namespace: namespace.clone(),
        }));
    }
    sections
}

/// Looks at the definition of Listener now and then: somebody may replace it.
async fn watch_definition(label: Arc<str>, client: Client, found: Problems, dirty: Arc<Notify>) {
    let mut told = None;
    loop {
        let pause = match definition::problems(client.clone()).await {
            Ok(problems) => {
                let is_right = problems.is_empty();
                let mut last = found.lock().unwrap_or_else(PoisonError::into_inner);
                if *last != problems {
                    for why in &problems {
                        error!(
                            cluster = &*label,
                            "the definition {} {why}",
                            definition::NAME
                        );
                    }
                    *last = problems;
                    dirty.notify_one();
                }
                if is_right {
                    LOOK_AGAIN
                } else {
                    LOOK_AGAIN_SOON
                }
            }
            Err(error) => {
                let why = words(&error);
                if told.as_ref() != Some(&why) {
                    info!(
                        cluster = &*label,
                        why, "cannot look at the definition of Listener"
                    );
                    told = Some(why);
                }
                LOOK_AGAIN_SOON
            }
        };
        sleep(pause).await;
    }
}

/// What the only cluster is called in logs and metrics.
pub const ONLY_CLUSTER: &str = "local";

const LOOK_AGAIN: Duration = Duration::from_secs(600);
const LOOK_AGAIN_SOON: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    fn common() -> Common {
        Common {
            scope: Scope::default(),
            writing: Writing {
                lease_namespace: None,
                lease_name: "a".into(),
                identity: "a".into(),
                with_ingresses: false,
            },
            dirty: Arc::default(),
            wanted: channel::Sender::new(None),
            ending: channel::Sender::new(false),
        }
    }

    #[tokio::test]
    async fn what_is_known_stays_in_force_when_a_kubeconfig_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("east");
        // Nobody listens there.
        fs::write(&path, KUBECONFIG).unwrap();
        let access = Access::Kubeconfig {
            path,
            context: None,
        };
        let common = common();
        let start = || Watched::start("east".parse().unwrap(), &access, None, &common);
        let (old, new) = (start().await.unwrap(), start().await.unwrap());
        new.inherit(&old);
        assert!(new.files(true).is_none(), "nothing is known");
        for section in sections(&common.scope) {
            old.mirror.replace(&section, BTreeMap::new());
        }
        new.inherit(&old);
        assert_eq!(new.files(true), Some(Files::new()));
        assert!(new.stale_for().is_some());
        let third = start().await.unwrap();
        third.inherit(&new);
        assert_eq!(third.files(true), Some(Files::new()));
    }

    const KUBECONFIG: &str = r#"
apiVersion: v1
kind: Config
current-context: a
clusters: [{name: a, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: a, user: {}}]
contexts: [{name: a, context: {cluster: a, user: a}}]
"#;
}
