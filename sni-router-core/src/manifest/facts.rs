//! What became of the objects that want to be served, for their status.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::model::{ObjectKey, Vip};
use crate::problem::ObjectRef;

/// An object that something can be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its cluster, namespace and name.
    pub key: Arc<ObjectKey>,
    /// Its `metadata.uid`, where it has one.
    pub uid: Option<String>,
    /// Its `metadata.generation`, where it has one.
    pub generation: Option<i64>,
}

/// What became of a Listener that is this router's to judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerFacts {
    /// Which one.
    pub subject: Subject,
    /// How it is served; `None` where it is refused.
    pub served: Option<Served>,
}

/// How a Listener is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Its own VIPs.
    pub vips: Vec<Vip>,
    /// How many routes it has, of its own cluster.
    pub routes: usize,
    /// Whether this is its last good version, because the object is wrong now.
    pub is_kept: bool,
}

/// What became of an Ingress that is this router's and names a Listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressFacts {
    /// Which one.
    pub subject: Subject,
    /// The VIPs of its Listener; none where it has no route there.
    pub vips: Vec<Vip>,
}

impl Subject {
    pub(super) fn new(key: &Arc<ObjectKey>, metadata: &ObjectMeta) -> Self {
        Self {
            key: Arc::clone(key),
            uid: metadata.uid.clone(),
            generation: metadata.generation,
        }
    }

    /// As problems name it.
    pub fn reference(&self, kind: &str) -> ObjectRef {
        ObjectRef {
            kind: kind.into(),
            cluster: self.key.cluster.clone(),
            namespace: Some(self.key.namespace.clone()),
            name: self.key.name.clone(),
        }
    }
}
