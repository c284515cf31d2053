//! Snapshots to models.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use super::attached::Attached;
use super::backend::Services;
use super::certificate::Certificates;
use super::class::Classes;
use super::facts::listener_facts;
use super::front::{fronts, served};
use super::last_good::LastGood;
use super::listener::Judge;
use super::locate::Locator;
use super::merge::Merge;
use super::object::{Key, Kind};
use super::sorted::Sorted;
use super::store::{InForce, Store};
use super::{Build, Options, Resolved, Snapshot};
use crate::model::{Model, ObjectKey};
use crate::problem::{ObjectRef, Problem};

/// Builds models from snapshots, one after the other.
#[derive(Debug, Default)]
pub struct Compiler {
    options: Options,
    store: Store,
    last_good: LastGood,
}

impl Compiler {
    /// A compiler that has seen nothing yet.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// Builds the model of a snapshot. `now` is in seconds since 1970, for the validity of
    /// certificates.
    ///
    /// A file whose text did not change since the last call is not parsed again.
    pub fn build(&mut self, snapshot: &Snapshot, resolved: &Resolved, now: i64) -> Build {
        let mut problems = self.store.update(snapshot);
        let sorted = Sorted::new(self.store.in_force());
        let classes = Classes::new(
            &self.options.ingress_classes,
            self.options.controllers,
            &sorted.classes,
        );
        let judge = Judge {
            classes: &classes,
            certificates: Certificates {
                check: self.options.certificates,
                objects: &sorted,
                now,
            },
        };
        let judged = self
            .last_good
            .listeners(&sorted.listeners, &judge, &mut problems);
        let fronts = fronts(&judged, &mut problems);
        let default_listener = self.options.default_listener.as_ref();
        let ingresses =
            self.last_good
                .ingresses(&sorted.ingresses, &classes, default_listener, &mut problems);
        let mut attached = Attached::new(&fronts, &sorted, ingresses, &mut problems);
        let services = Services::new(&sorted, resolved, served(&fronts));
        let mut merge = Merge {
            services: &services,
            local: self.options.local_cluster.as_ref(),
            problems: &mut problems,
            shadowed: Vec::new(),
            routes: HashMap::new(),
            ingresses: std::mem::take(&mut attached.others),
        };
        let listeners = fronts
            .iter()
            .map(|front| merge.front(front, &attached))
            .collect();
        let Merge {
            shadowed,
            routes,
            mut ingresses,
            ..
        } = merge;
        ingresses.sort_by(|a, b| a.subject.key.cmp(&b.subject.key));
        let model = Model {
            listeners,
            external_names: services.into_external_names(),
        };
        let listeners = listener_facts(judged, &routes, &attached.missed, &problems);
        place(&mut problems, self.store.in_force(), snapshot);
        Build {
            model,
            problems,
            listeners,
            ingresses,
            shadowed,
            current: snapshot.current.clone(),
        }
    }
}

pub(super) fn reference(kind: Kind, id: &ObjectKey) -> ObjectRef {
    ObjectRef {
        kind: kind.name().into(),
        cluster: id.cluster.clone(),
        namespace: kind.is_namespaced().then(|| id.namespace.clone()),
        name: id.name.clone(),
    }
}

/// Gives every problem its place, and puts them in order.
fn place(problems: &mut Vec<Problem>, objects: &BTreeMap<Key, InForce>, snapshot: &Snapshot) {
    let mut locator = Locator::new(&snapshot.files);
    for problem in problems.iter_mut() {
        let in_force = key_named(&problem.object).and_then(|key| objects.get(&key));
        if let Some(origin) = in_force.and_then(|in_force| in_force.origin.as_ref()) {
            locator.attach(problem, origin);
        }
    }
    problems.sort_by(|a, b| order(a).cmp(&order(b)));
    problems.dedup();
}

fn order(problem: &Problem) -> impl Ord + '_ {
    let Problem {
        severity,
        reason: _,
        object,
        path,
        what,
        hint,
        at,
    } = problem;
    (at, object, Reverse(severity), path, what, hint)
}

fn key_named(object: &ObjectRef) -> Option<Key> {
    let kind = Kind::ALL
        .into_iter()
        .find(|kind| kind.name() == object.kind)?;
    Some(Key::new(
        kind,
        &object.cluster,
        object.namespace.as_deref().unwrap_or_default(),
        &object.name,
    ))
}
