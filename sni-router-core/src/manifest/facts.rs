//! What became of the objects that want to be served, for their status.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::last_good::{Fate, Judged};
use super::object::Kind;
use crate::model::{ObjectKey, Vip};
use crate::problem::{ObjectRef, Problem, Reason};

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

/// What became of the Listeners. `routes` holds those that are served, and how many routes each
/// has; `missed` those that an Ingress of this router names and that are not.
///
/// One whose passthrough is off may be another controller's: it is only this router's to judge if
/// it names a class of this router's, is named by an Ingress, or is one listener with one that is
/// on.
pub(super) fn listener_facts(
    judged: Vec<Judged>,
    routes: &HashMap<Arc<ObjectKey>, usize>,
    missed: &HashSet<ObjectKey>,
    problems: &[Problem],
) -> Vec<ListenerFacts> {
    let in_conflict: HashSet<&ObjectRef> = problems
        .iter()
        .filter(|problem| problem.reason == Reason::ClusterConflict)
        .map(|problem| &problem.object)
        .collect();
    let of = |judged: Judged| {
        let key = &judged.subject.key;
        if let Fate::Off(off) = &judged.fate
            && !off.has_class
            && !missed.contains(key.as_ref())
            && !in_conflict.contains(&judged.subject.reference(Kind::Listener.name()))
        {
            return None;
        }
        let served = judged.settings().zip(routes.get(key));
        let served = served.map(|(settings, &routes)| Served {
            vips: settings.vips.clone(),
            routes,
            is_kept: matches!(judged.fate, Fate::Kept(_)),
        });
        Some(ListenerFacts {
            subject: judged.subject,
            served,
        })
    };
    judged.into_iter().filter_map(of).collect()
}
