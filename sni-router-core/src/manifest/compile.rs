//! Snapshots to models.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

use super::backend::Services;
use super::certificate::Certificates;
use super::class::Classes;
use super::last_good::LastGood;
use super::listener::Judge;
use super::locate::{Locator, Origin};
use super::merge::{Attached, Merge, without_conflicts};
use super::object::{Key, Kind, Object};
use super::report::Report;
use super::slices;
use super::store::Store;
use super::{Build, Options, Resolved, Snapshot, crd};
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
        let objects = self.store.update(snapshot);
        let mut problems = objects.problems;
        let objects_by_kind = Sorted::new(objects.by_key);
        let classes = Classes {
            served: &self.options.ingress_classes,
            objects: &objects_by_kind.classes,
        };
        let judge = Judge {
            classes: &classes,
            certificates: Certificates {
                check: self.options.certificates,
                secrets: &objects_by_kind.secrets,
                now,
            },
        };
        let right = self
            .last_good
            .listeners(&objects_by_kind.listeners, &judge, &mut problems);
        let listeners = without_conflicts(right, &mut problems);
        let readings =
            self.last_good
                .ingresses(&objects_by_kind.ingresses, &classes, &mut problems);
        for slice in &objects_by_kind.slices {
            let mut report = Report::new(reference(Kind::EndpointSlice, &key_of(&slice.metadata)));
            slices::check(slice, &mut report);
            problems.extend(report.into_problems());
        }

        let services = Services::new(
            &objects_by_kind.services,
            objects_by_kind.slices.iter(),
            resolved,
        );
        let mut merge = Merge {
            services: &services,
            problems: &mut problems,
            shadowed: Vec::new(),
        };
        let attached = Attached::new(&listeners, &objects_by_kind.listeners, readings, &mut merge);
        let served = listeners
            .iter()
            .map(|(key, settings)| merge.listener(key, settings, attached.to(key)))
            .collect();
        let shadowed = merge.shadowed;
        let model = Model {
            listeners: served,
            external_names: services.into_external_names(),
        };
        place(&mut problems, &objects.origins, snapshot);
        Build {
            model,
            problems,
            shadowed,
        }
    }
}

/// The objects in force, by kind.
#[derive(Debug, Default)]
struct Sorted {
    listeners: BTreeMap<ObjectKey, Arc<crd::Listener>>,
    ingresses: BTreeMap<ObjectKey, Arc<Ingress>>,
    classes: BTreeMap<String, Arc<IngressClass>>,
    services: BTreeMap<ObjectKey, Arc<Service>>,
    secrets: BTreeMap<ObjectKey, Arc<Secret>>,
    slices: Vec<Arc<EndpointSlice>>,
}

impl Sorted {
    fn new(objects: BTreeMap<Key, Object>) -> Self {
        let mut sorted = Self::default();
        for (key, object) in objects {
            let Key {
                namespace, name, ..
            } = key;
            let key = ObjectKey { namespace, name };
            match object {
                Object::Listener(object) => drop(sorted.listeners.insert(key, object)),
                Object::Ingress(object) => drop(sorted.ingresses.insert(key, object)),
                Object::IngressClass(object) => drop(sorted.classes.insert(key.name, object)),
                Object::Service(object) => drop(sorted.services.insert(key, object)),
                Object::Secret(object) => drop(sorted.secrets.insert(key, object)),
                Object::EndpointSlice(object) => sorted.slices.push(object),
            }
        }
        sorted
    }
}

pub(super) fn reference(kind: Kind, key: &ObjectKey) -> ObjectRef {
    Key {
        kind,
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
    .reference()
}

fn key_of(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> ObjectKey {
    ObjectKey {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
    }
}

/// Gives every problem its place, and puts them in order.
fn place(problems: &mut Vec<Problem>, origins: &HashMap<Key, Origin>, snapshot: &Snapshot) {
    let mut locator = Locator::new(&snapshot.files);
    for problem in problems.iter_mut() {
        if let Some(origin) = key_named(&problem.object).and_then(|key| origins.get(&key)) {
            locator.attach(problem, origin);
        }
    }
    problems.sort_by(|a, b| order(a).cmp(&order(b)));
    problems.dedup();
}

fn order(problem: &Problem) -> impl Ord + '_ {
    let Problem {
        severity,
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
    let namespace = object.namespace.clone().unwrap_or_default();
    Some(Key {
        kind,
        namespace,
        name: object.name.clone(),
    })
}
