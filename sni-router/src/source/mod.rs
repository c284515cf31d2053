//! Where configuration comes from: snapshots of manifests, and addresses of external names.

pub mod directory;
pub mod dns;
mod fingerprint;
pub mod kubernetes;
pub mod read;
mod watcher;

use std::sync::Arc;

use sni_router_core::manifest::{Build, Snapshot};
use sni_router_core::status::desired;
use tokio::sync::{oneshot, watch};
use tracing::info;

use self::directory::{Directory, Reader, Unread};
use self::kubernetes::Kubernetes;

/// Where manifests come from.
pub enum Source {
    /// Files.
    Directory(Directory<Snapshot>),
    /// API servers.
    Kubernetes(Kubernetes),
}

impl Source {
    /// The last snapshot, and those to come.
    pub fn snapshots(&self) -> Snapshots {
        match self {
            Self::Directory(directory) => Snapshots::Directory(directory.snapshots()),
            Self::Kubernetes(kubernetes) => Snapshots::Kubernetes(kubernetes.snapshots()),
        }
    }

    /// Whom to ask to look again.
    pub fn reload(&self) -> Reload {
        Reload(match self {
            Self::Directory(directory) => Some(directory.reader()),
            Self::Kubernetes(_) => None,
        })
    }

    /// Why manifests cannot be read, while that is so. What API servers do not tell is known of each
    /// [cluster](kubernetes::ClusterFacts).
    pub fn unread(&self) -> Arc<Unread> {
        match self {
            Self::Directory(directory) => directory.unread(),
            Self::Kubernetes(_) => Arc::default(),
        }
    }

    /// Tells the authors of the objects what became of them, where there is a place for that.
    pub fn write(&self, build: &Build) {
        if let Self::Kubernetes(kubernetes) = self {
            kubernetes.write(desired(build));
        }
    }

    /// Keeps what is known for the next start.
    pub async fn close(self) {
        if let Self::Kubernetes(kubernetes) = self {
            kubernetes.close().await;
        }
    }
}

/// Has a [`Source`] look again.
#[derive(Clone)]
pub struct Reload(Option<Reader>);

impl Reload {
    /// Whether or not something seems changed. The answer ends when all that is new is among the snapshots.
    pub fn ask(&self) -> oneshot::Receiver<()> {
        let Some(reader) = &self.0 else {
            info!("nothing to read again: API servers tell every change");
            return oneshot::channel().1;
        };
        reader.ask()
    }
}

/// The snapshots of a [`Source`].
pub enum Snapshots {
    /// There always is one.
    Directory(watch::Receiver<Arc<Snapshot>>),
    /// There is none before the API servers have answered.
    Kubernetes(watch::Receiver<Option<Arc<Snapshot>>>),
}

impl Snapshots {
    /// The last one, if there is one yet.
    pub fn latest(&mut self) -> Option<Arc<Snapshot>> {
        match self {
            Self::Directory(snapshots) => Some(Arc::clone(&snapshots.borrow_and_update())),
            Self::Kubernetes(snapshots) => snapshots.borrow_and_update().clone(),
        }
    }

    /// Whether there is one that has not been taken yet.
    pub fn are_new(&self) -> bool {
        let changed = match self {
            Self::Directory(snapshots) => snapshots.has_changed(),
            Self::Kubernetes(snapshots) => snapshots.has_changed(),
        };
        changed.unwrap_or(false)
    }

    /// Returns when there is another one.
    pub async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        match self {
            Self::Directory(snapshots) => snapshots.changed().await,
            Self::Kubernetes(snapshots) => snapshots.changed().await,
        }
    }
}
