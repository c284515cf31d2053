//! The objects in force, by kind.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

use super::crd;
use super::object::{Key, Kind, Object};
use super::store::InForce;
use crate::model::{Cluster, ObjectKey};

/// The objects in force, by kind.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    pub(super) listeners: ById<crd::Listener>,
    pub(super) ingresses: ById<Ingress>,
    pub(super) classes: ById<IngressClass>,
    pub(super) services: ById<Service>,
    pub(super) secrets: ById<Secret>,
    pub(super) slices: Vec<(Cluster, Arc<EndpointSlice>)>,
    pub(super) namespaces: ById<Namespace>,
    /// Objects that are written somewhere, but wrong and without a last good version.
    bad: HashSet<Key>,
}

/// Objects of one kind.
pub(super) type ById<T> = BTreeMap<Arc<ObjectKey>, Arc<T>>;

impl Sorted {
    pub(super) fn new(objects: &BTreeMap<Key, InForce>) -> Self {
        let mut sorted = Self::default();
        for (key, in_force) in objects {
            let id = Arc::clone(&key.id);
            match in_force.object.clone() {
                Some(Object::Listener(object)) => drop(sorted.listeners.insert(id, object)),
                Some(Object::Ingress(object)) => drop(sorted.ingresses.insert(id, object)),
                Some(Object::IngressClass(object)) => drop(sorted.classes.insert(id, object)),
                Some(Object::Service(object)) => drop(sorted.services.insert(id, object)),
                Some(Object::Secret(object)) => drop(sorted.secrets.insert(id, object)),
                Some(Object::EndpointSlice(object)) => {
                    sorted.slices.push((id.cluster.clone(), object))
                }
                Some(Object::Namespace(object)) => drop(sorted.namespaces.insert(id, object)),
                None => drop(sorted.bad.insert(key.clone())),
            }
        }
        sorted
    }

    /// Whether an object that is not here is written somewhere, but wrong.
    pub(super) fn is_bad(&self, kind: Kind, id: &ObjectKey) -> bool {
        self.bad
            .contains(&Key::new(kind, &id.cluster, &id.namespace, &id.name))
    }

    /// An EndpointSlice that is wrong itself, and by its name of this Service: its label is not known.
    pub(super) fn bad_slice(&self, service: &ObjectKey) -> Option<&ObjectKey> {
        let is_of = |slice: &&ObjectKey| {
            let rest = slice.name.strip_prefix(&service.name);
            (&slice.cluster, &slice.namespace) == (&service.cluster, &service.namespace)
                && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        let slices = self
            .bad
            .iter()
            .filter(|key| key.kind == Kind::EndpointSlice);
        slices.map(|key| key.id.as_ref()).filter(is_of).min()
    }
}
