//! Snapshots of Kubernetes clusters.
//!
//! Every kind of object is watched in every cluster. A change only marks the source dirty; a moment
//! later the texts of all objects together are the next snapshot. Nothing is published before every
//! watch has listed or is withheld, so there is no half-empty start. What an API server said last
//! stays in force while it does not answer, and is kept on disk for a start without it.
//!
//! Clusters do not know each other: what one says, loses or stops saying changes nothing of another.

mod attempts;
mod cache;
mod cluster;
mod clusters;
mod connect;
mod contact;
mod definition;
mod events;
mod inputs;
mod kind;
mod lease;
mod mirror;
mod object;
mod pem;
mod plugin;
mod renewal;
mod section;
mod status;
mod watch;
mod writer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use sni_router_core::manifest::{Snapshot, SourceFile, UnreadableFile};
use sni_router_core::model::Cluster;
use sni_router_core::status::Desired;
use thiserror::Error;
use tokio::sync::watch as channel;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

pub use self::cluster::Scope;
use self::cluster::Watched;
use self::clusters::{Clusters, read_kubeconfigs};
pub use self::connect::{Access, ConnectError};
use self::watch::words;
pub use self::writer::Writing;
use super::directory::{Directory, DirectoryError};

/// What is watched, and what is done without an API server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The clusters; one may be unnamed if there is only one.
    pub clusters: Vec<(Cluster, Access)>,
    /// A directory of kubeconfigs, whose files are named as their clusters.
    pub clusters_dir: Option<PathBuf>,
    /// What is watched in each.
    pub scope: Scope,
    /// What is written back.
    pub writing: Writing,
    /// Where the last good state is kept.
    pub cache_dir: Option<PathBuf>,
    /// After which time without an answer a cluster's objects are dropped; never if absent.
    pub stale_after: Option<Duration>,
}

/// Clusters that are watched as long as this lives.
pub struct Kubernetes {
    clusters: Arc<Clusters>,
    snapshots: channel::Receiver<Option<Arc<Snapshot>>>,
    _tasks: JoinSet<()>,
}

impl Kubernetes {
    /// Begins to watch. Needs a tokio runtime with time.
    ///
    /// # Errors
    ///
    /// If a cluster is named in a way that can never work. One that does not answer is no error.
    pub async fn start(settings: Settings) -> Result<Self, KubernetesError> {
        let clusters = Arc::new(Clusters::new(
            settings.scope,
            settings.writing,
            settings.cache_dir,
        ));
        for (name, access) in &settings.clusters {
            clusters.add(name.clone(), access).await?;
        }
        let mut tasks = JoinSet::new();
        if let Some(path) = settings.clusters_dir {
            let directory = Directory::open(path, read_kubeconfigs).await?;
            tasks.spawn(Arc::clone(&clusters).follow(directory));
        }
        let (publish, snapshots) = channel::channel(None);
        let gather = Gather {
            clusters: Arc::clone(&clusters),
            stale_after: settings.stale_after,
            publish,
            began: Instant::now(),
        };
        tasks.spawn(gather.run());
        let saved = Arc::clone(&clusters);
        tasks.spawn(async move {
            loop {
                sleep(SAVE_PAUSE).await;
                saved.save().await;
            }
        });
        Ok(Self {
            clusters,
            snapshots,
            _tasks: tasks,
        })
    }

    /// What all clusters say together; `None` before enough of them have answered.
    pub fn snapshots(&self) -> channel::Receiver<Option<Arc<Snapshot>>> {
        self.snapshots.clone()
    }

    /// How the clusters fare, as a question that can be asked at any time.
    pub fn facts(&self) -> impl Fn() -> Vec<ClusterFacts> + Send + Sync + 'static {
        let clusters = Arc::clone(&self.clusters);
        move || {
            clusters
                .all()
                .iter()
                .map(|cluster| facts(cluster))
                .collect()
        }
    }

    /// What shall be written into status and events from now on.
    pub fn write(&self, desired: Desired) {
        self.clusters.common.wanted.send_if_modified(|last| {
            let differs = last.as_deref() != Some(&desired);
            if differs {
                *last = Some(Arc::new(desired));
            }
            differs
        });
    }

    /// Gives the Leases back, and keeps what is known for the next start.
    pub async fn close(self) {
        let ending = &self.clusters.common.ending;
        ending.send_replace(true);
        let _ = timeout(LAST_SAVE, ending.closed()).await;
        if timeout(LAST_SAVE, self.clusters.save()).await.is_err() {
            warn!("the disk does not take the clusters' state");
        }
    }
}

/// How a cluster fares.
#[derive(Clone, Debug)]
pub struct ClusterFacts {
    /// Its name.
    pub cluster: Arc<str>,
    /// Objects by kind.
    pub objects: BTreeMap<&'static str, usize>,
    /// Watches that had to begin again because of an error, by kind.
    pub watch_errors: BTreeMap<&'static str, u64>,
    /// How long what is in force may have been outdated; `None` while the API server answers.
    pub stale_for: Option<Duration>,
    /// Why it does not.
    pub why: Option<String>,
    /// When the API server last said something new.
    pub last_event: Option<SystemTime>,
    /// What is wrong with the definition of Listener.
    pub definition_problems: Vec<&'static str>,
    /// Whether this router writes status and events.
    pub is_leader: bool,
    /// How often it did: status, events, and in vain.
    pub writes: [(&'static str, u64); 3],
}

fn facts(cluster: &Watched) -> ClusterFacts {
    let counts = cluster.mirror.counts().into_iter();
    let written = &cluster.written;
    let mut watch_errors = BTreeMap::new();
    for (section, count) in cluster.contact.errors() {
        *watch_errors.entry(section.kind.as_str()).or_default() += count;
    }
    ClusterFacts {
        cluster: Arc::clone(&cluster.label),
        objects: counts.map(|(kind, n)| (kind.as_str(), n)).collect(),
        watch_errors,
        stale_for: cluster.stale_for(),
        why: cluster.contact.why(),
        last_event: cluster.mirror.last_event(),
        definition_problems: cluster.definition_problems(),
        is_leader: written.is_leader.load(Ordering::Relaxed),
        writes: [
            ("status", written.statuses.load(Ordering::Relaxed)),
            ("event", written.events.load(Ordering::Relaxed)),
            ("failed", written.failures.load(Ordering::Relaxed)),
        ],
    }
}

/// Why no cluster is watched.
#[derive(Debug, Error)]
pub enum KubernetesError {
    /// One cannot be reached, whatever its API server says.
    #[error("cannot watch the cluster: {0}")]
    Connect(#[from] ConnectError),
    /// The directory of kubeconfigs cannot be read.
    #[error("cannot read the kubeconfigs of --clusters-dir: {}", words(.0.cause()))]
    Directory(#[from] DirectoryError),
}

/// Makes snapshots of what the clusters say.
struct Gather {
    clusters: Arc<Clusters>,
    stale_after: Option<Duration>,
    publish: channel::Sender<Option<Arc<Snapshot>>>,
    began: Instant,
}

impl Gather {
    async fn run(self) {
        let mut dropped = Vec::new();
        loop {
            let is_dirty = timeout(TICK, self.clusters.common.dirty.notified())
                .await
                .is_ok();
            let now_dropped = self.too_stale();
            let has_begun = self.publish.borrow().is_some();
            if !is_dirty && has_begun && now_dropped == dropped {
                continue;
            }
            for cluster in now_dropped.iter().filter(|it| !dropped.contains(*it)) {
                warn!(
                    cluster = &**cluster,
                    "not heard from for too long; its objects are dropped"
                );
            }
            dropped = now_dropped;
            let began = Instant::now();
            if is_dirty {
                self.settle(began).await;
            }
            if let Some(snapshot) = self.snapshot(&dropped) {
                self.publish(snapshot);
            }
            sleep_until(began + PACE).await;
        }
    }

    /// Waits for what comes together with the first change.
    async fn settle(&self, began: Instant) {
        sleep(SETTLE).await;
        // One that does not answer keeps nobody waiting.
        let is_settled = |cluster: &Arc<Watched>| {
            let contact = &cluster.contact;
            cluster
                .mirror
                .is_settled(|section| !contact.is_failing(section))
        };
        while !self.clusters.all().iter().all(is_settled) && began.elapsed() < SETTLE_MOST {
            sleep(SETTLE).await;
        }
    }

    /// Clusters that have not been heard from for longer than they may. One that only refuses a kind
    /// is not among them.
    fn too_stale(&self) -> Vec<Arc<str>> {
        let Some(limit) = self.stale_after else {
            return Vec::new();
        };
        let clusters = self.clusters.all().into_iter();
        clusters
            .filter(|cluster| cluster.contact.silent_for().is_some_and(|age| age > limit))
            .map(|cluster| Arc::clone(&cluster.label))
            .collect()
    }

    /// What is in force of all clusters together. `None` at the start while it would be less than
    /// there is: what is then served may be from before.
    fn snapshot(&self, dropped: &[Arc<str>]) -> Option<Snapshot> {
        let may_be_cached = self.began.elapsed() > CACHE_AFTER;
        let has_begun = self.publish.borrow().is_some();
        let is_patient = !has_begun && self.began.elapsed() < START_PATIENCE;
        let mut snapshot = Snapshot::default();
        let mut in_force = 0;
        let mut missing = false;
        for cluster in self.clusters.all() {
            if dropped.contains(&cluster.label) {
                continue;
            }
            // Before its objects are taken: a list may become complete meanwhile.
            if cluster.mirror.is_complete() {
                snapshot.current.insert(cluster.name.clone());
            }
            match cluster.files(may_be_cached) {
                Some(files) => {
                    in_force += 1;
                    snapshot
                        .files
                        .extend(files.into_iter().map(|(path, text)| SourceFile {
                            cluster: cluster.name.clone(),
                            path,
                            text,
                        }));
                }
                None => missing = true,
            }
            snapshot.unreadable.extend(problems(&cluster));
        }
        // When the last cluster is dropped or removed, nothing is left.
        ((in_force > 0 || has_begun) && !(missing && is_patient)).then_some(snapshot)
    }

    fn publish(&self, snapshot: Snapshot) {
        self.publish.send_if_modified(|last| {
            let differs = last.as_deref() != Some(&snapshot);
            if last.is_none() {
                let stale: Vec<_> = self.clusters.all();
                let stale = stale.iter().filter(|it| it.stale_for().is_some());
                let stale: Vec<_> = stale.map(|it| &*it.label).collect();
                info!(
                    objects = snapshot.files.len(),
                    ?stale,
                    "the clusters are known"
                );
            }
            if differs {
                *last = Some(Arc::new(snapshot));
            }
            differs
        });
    }
}

/// What keeps a cluster from being read as it should be.
fn problems(cluster: &Watched) -> impl Iterator<Item = UnreadableFile> {
    let definition = cluster.definition_problems().into_iter();
    let definition = definition.map(|why| (format!("definition/{}", definition::NAME), why.into()));
    let withheld = cluster.contact.withheld().into_iter();
    let withheld = withheld.map(|(section, why)| {
        let why = format!("is withheld by the API server, and is as it was known last: {why}");
        (section.path(), why)
    });
    let name = cluster.name.clone();
    definition
        .chain(withheld)
        .map(move |(path, why)| UnreadableFile {
            cluster: name.clone(),
            path,
            why,
        })
}

/// An object rarely changes alone.
const SETTLE: Duration = Duration::from_millis(20);

/// A Listener waits so long for the Secret that it names.
const SETTLE_MOST: Duration = Duration::from_secs(1);

/// Snapshots are at least so far apart. Endpoints may change a hundred times a second.
const PACE: Duration = Duration::from_millis(100);

/// How often to look at what only time changes.
const TICK: Duration = Duration::from_millis(500);

/// API servers get so long at the start before what is on disk is served.
const CACHE_AFTER: Duration = Duration::from_secs(3);

/// Clusters that nothing is known of hold up the others so long at the start, not longer.
const START_PATIENCE: Duration = Duration::from_secs(10);

const SAVE_PAUSE: Duration = Duration::from_secs(5);
const LAST_SAVE: Duration = Duration::from_secs(5);
