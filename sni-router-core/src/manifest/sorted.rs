//! The objects in force, by kind.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

use super::crd;
use super::locate::Origin;
use super::object::{Key, Kind, Object};
use crate::model::ObjectKey;

/// The objects in force, by kind.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    pub(super) listeners: BTreeMap<ObjectKey, Arc<crd::Listener>>,
    pub(super) ingresses: BTreeMap<ObjectKey, Arc<Ingress>>,
    pub(super) classes: BTreeMap<String, Arc<IngressClass>>,
    pub(super) services: BTreeMap<ObjectKey, Arc<Service>>,
    pub(super) secrets: BTreeMap<ObjectKey, Arc<Secret>>,
    pub(super) slices: Vec<Arc<EndpointSlice>>,
    /// Objects that are written somewhere, but wrong and without a last good version.
    bad: HashSet<Key>,
}

impl Sorted {
    pub(super) fn new(objects: BTreeMap<Key, Object>, written: &HashMap<Key, Origin>) -> Self {
        let bad = written.keys().filter(|key| !objects.contains_key(key));
        let mut sorted = Self {
            bad: bad.cloned().collect(),
            ..Self::default()
        };
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

    /// Whether an object that is not here is written somewhere, but wrong.
    pub(super) fn is_bad(&self, kind: Kind, key: &ObjectKey) -> bool {
        let ObjectKey { namespace, name } = key.clone();
        self.bad.contains(&Key {
            kind,
            namespace,
            name,
        })
    }
}
