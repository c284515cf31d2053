//! Which clusters are watched: those that were named, and a directory of kubeconfigs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sni_router_core::model::Cluster;
use tokio::sync::watch as channel;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::cache::Cache;
use super::cluster::{Common, Scope, Watched};
use super::connect::{Access, ConnectError};
use super::writer::Writing;
use crate::source::directory::Directory;

/// The clusters that are watched, by their labels.
pub struct Clusters {
    all: Mutex<BTreeMap<Arc<str>, Arc<Watched>>>,
    cache_dir: Option<PathBuf>,
    pub common: Common,
}

impl Clusters {
    pub fn new(scope: Scope, writing: Writing, cache_dir: Option<PathBuf>) -> Self {
        Self {
            all: Mutex::default(),
            cache_dir,
            common: Common {
                scope,
                writing,
                dirty: Arc::default(),
                wanted: channel::Sender::new(None),
                ending: channel::Sender::new(false),
            },
        }
    }

    /// Begins to watch a cluster, instead of one of the same name.
    pub async fn add(&self, name: Cluster, access: &Access) -> Result<(), ConnectError> {
        let cache = self.cache_dir.as_deref();
        let scope = format!("{:?}", self.common.scope);
        let cache = cache.map(|directory| Cache::new(directory, &name, &scope));
        let cluster = Watched::start(name, access, cache, &self.common).await?;
        let mut all = self.lock();
        if let Some(old) = all.get(&cluster.label) {
            cluster.inherit(old);
        }
        all.insert(Arc::clone(&cluster.label), cluster.into());
        drop(all);
        self.common.dirty.notify_one();
        Ok(())
    }

    /// Every cluster there is now.
    pub fn all(&self) -> Vec<Arc<Watched>> {
        self.lock().values().cloned().collect()
    }

    /// Writes what is not on the disk yet.
    pub async fn save(&self) {
        for cluster in self.all() {
            // A disk that hangs harms nobody else.
            let _ = spawn_blocking(move || cluster.save()).await;
        }
    }

    /// Adds, replaces and removes clusters as `directory` says, for ever. Those that are there when this
    /// begins are none of its business.
    pub async fn follow(self: Arc<Self>, directory: Directory<Kubeconfigs>) {
        let mut files = directory.snapshots();
        let mut known = Kubeconfigs::new();
        let fixed: BTreeSet<_> = self.all().iter().map(|it| it.name.clone()).collect();
        let mut told = BTreeSet::new();
        loop {
            let wanted = Arc::clone(&files.borrow_and_update());
            let named = wanted.keys().filter(|name| fixed.contains(*name));
            for name in named.filter(|name| told.insert((*name).clone())) {
                let name = name.as_str();
                error!(
                    cluster = name,
                    "its file in --clusters-dir is ignored: it is named by a flag as well"
                );
            }
            for name in known.keys().filter(|name| !wanted.contains_key(*name)) {
                self.remove(name);
            }
            known.retain(|name, _| wanted.contains_key(name));
            let mut pause = Duration::MAX;
            // A file that cannot be read changes nothing.
            let changed: Vec<_> = wanted
                .iter()
                .filter(|(name, file)| file.hash.is_some() && !fixed.contains(*name))
                .filter(|(name, file)| known.get(*name) != Some(*file))
                .collect();
            for (name, file) in changed {
                if self.replace(name, file).await {
                    known.insert(name.clone(), file.clone());
                } else {
                    pause = RETRY;
                }
            }
            if let Ok(Err(_)) = timeout(pause, files.changed()).await {
                return;
            }
        }
    }

    async fn replace(&self, name: &Cluster, file: &Kubeconfig) -> bool {
        let access = Access::Kubeconfig {
            path: file.path.clone(),
            context: None,
        };
        match self.add(name.clone(), &access).await {
            Ok(()) => {
                info!(cluster = name.as_str(), "watching");
                true
            }
            Err(error) => {
                error!(cluster = name.as_str(), "{error}");
                false
            }
        }
    }

    fn remove(&self, name: &Cluster) {
        if let Some(cluster) = self.lock().remove(name.as_str()) {
            info!(cluster = name.as_str(), "no longer watched");
            cluster.forget();
            self.common.dirty.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<Watched>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kubeconfigs of a directory, by the names of their clusters.
pub type Kubeconfigs = BTreeMap<Cluster, Kubeconfig>;

/// A kubeconfig file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubeconfig {
    path: PathBuf,
    /// Of its contents, which are credentials and not kept. `None` if they cannot be read.
    hash: Option<u64>,
}

/// The kubeconfigs of `directory`: every file whose name can be that of a cluster.
pub fn read_kubeconfigs(directory: &Path) -> io::Result<Kubeconfigs> {
    let mut found = Kubeconfigs::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') || !fs::metadata(&path).is_ok_and(|meta| meta.is_file()) {
            continue;
        }
        let cluster = match name.parse::<Cluster>() {
            Ok(cluster) => cluster,
            Err(error) => {
                warn!("{}: its name {error}", path.display());
                continue;
            }
        };
        let hash = match fs::read(&path) {
            Ok(bytes) => {
                let mut hasher = DefaultHasher::new();
                bytes.hash(&mut hasher);
                Some(hasher.finish())
            }
            Err(error) => {
                error!("{}: {error}", path.display());
                None
            }
        };
        found.insert(cluster, Kubeconfig { path, hash });
    }
    Ok(found)
}

/// A kubeconfig that could not be used may name what comes later: a program, a file.
const RETRY: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubeconfigs_are_found_by_the_names_of_clusters() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["east", "west-1", ".hidden", "No Name", "a.yaml"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        fs::create_dir(dir.path().join("sub")).unwrap();
        let before = read_kubeconfigs(dir.path()).unwrap();
        let names: Vec<_> = before.keys().map(Cluster::as_str).collect();
        assert_eq!(names, ["east", "west-1"]);
        fs::write(dir.path().join("east"), "other").unwrap();
        let after = read_kubeconfigs(dir.path()).unwrap();
        let (east, west) = ("east".parse().unwrap(), "west-1".parse().unwrap());
        assert_ne!(before[&east], after[&east]);
        assert_eq!(before[&west], after[&west]);
    }

    #[test]
    fn kubeconfig_that_cannot_be_read_is_there_and_keeps_none_from_being_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("east"), "a").unwrap();
        // Its first page is never mapped.
        std::os::unix::fs::symlink("/proc/self/mem", dir.path().join("west")).unwrap();
        let found = read_kubeconfigs(dir.path()).unwrap();
        let hashes: Vec<_> = found.values().map(|file| file.hash.is_some()).collect();
        assert_eq!(hashes, [true, false]);
    }
}
