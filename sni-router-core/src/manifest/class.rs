//! Which Ingresses and Listeners are this router's, by class.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

use super::Controllers;
use super::sorted::ById;
use crate::model::{Cluster, ObjectKey};

/// The classes this router serves, and the IngressClass objects.
pub(super) struct Classes<'a> {
    /// None: all that are of a served controller.
    served: &'a [String],
    controllers: Controllers,
    /// The first object of each name in lower case, of each cluster.
    by_name: HashMap<&'a Cluster, HashMap<String, &'a IngressClass>>,
    /// Clusters of which a class that is served is the default.
    defaults: HashSet<&'a Cluster>,
}

impl<'a> Classes<'a> {
    pub(super) fn new(
        served: &'a [String],
        controllers: Controllers,
        objects: &'a ById<IngressClass>,
    ) -> Self {
        let mut by_name: HashMap<&Cluster, HashMap<String, &IngressClass>> = HashMap::new();
        for (key, object) in objects {
            let of_cluster = by_name.entry(&key.cluster).or_default();
            let name = key.name.to_ascii_lowercase();
            of_cluster.entry(name).or_insert(object.as_ref());
        }
        let mut classes = Self {
            served,
            controllers,
            by_name,
            defaults: HashSet::new(),
        };
        let is_served = |key: &ObjectKey| {
            let rejected = classes.reject_class(&key.cluster, &key.name, String::new());
            rejected.is_none()
        };
        let defaults = objects
            .iter()
            .filter(|(key, object)| is_default(object) && is_served(key))
            .map(|(key, _)| &key.cluster)
            .collect();
        classes.defaults = defaults;
        classes
    }

    /// Why an Ingress is not served; `None` if it is.
    ///
    /// As NetScaler decides: the annotation wins over the field; an Ingress with neither is
    /// served if no classes were given, or if one of them is the cluster's default.
    pub(super) fn reject_ingress(&self, key: &ObjectKey, ingress: &Ingress) -> Option<Rejected> {
        let annotated = ingress
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(ANNOTATION));
        if let Some(class) = annotated {
            let path = super::path::annotation(ANNOTATION);
            return match self.served.is_empty() {
                true => self.reject_class(&key.cluster, class, path),
                // An annotation is older than IngressClass objects: the name is enough.
                false => self.reject_name(class, path),
            };
        }
        let path = "spec.ingressClassName".to_owned();
        let named = ingress
            .spec
            .as_ref()
            .and_then(|spec| spec.ingress_class_name.as_deref());
        match named {
            Some(class) => self.reject_class(&key.cluster, class, path),
            None if self.served.is_empty() || self.defaults.contains(&key.cluster) => None,
            None => Some(Rejected {
                path,
                what: format!(
                    "has no class, and only {} is served",
                    self.served.join(", ")
                ),
            }),
        }
    }

    /// Why a Listener is not served; `None` if it is. One without a class is everybody's.
    pub(super) fn reject_listener(&self, key: &ObjectKey, class: Option<&str>) -> Option<Rejected> {
        let path = "spec.ingressclass".to_owned();
        match self.controllers {
            Controllers::ByName => self.reject_name(class?, path),
            _ => self.reject_class(&key.cluster, class?, path),
        }
    }

    fn reject_name(&self, class: &str, path: String) -> Option<Rejected> {
        let is_given = self.served.is_empty()
            || self
                .served
                .iter()
                .any(|served| served.eq_ignore_ascii_case(class));
        (!is_given).then(|| Rejected {
            path,
            what: format!(
                "is of the class {class:?}, and only {} is served",
                self.served.join(", ")
            ),
        })
    }

    fn reject_class(&self, cluster: &Cluster, class: &str, path: String) -> Option<Rejected> {
        if let Some(rejected) = self.reject_name(class, path.clone()) {
            return Some(rejected);
        }
        if self.served.is_empty() && self.controllers == Controllers::ByName {
            return None;
        }
        let what = match (self.controller(cluster, class), self.controllers) {
            (None, Controllers::ByName) => return None,
            (None, _) => format!("is of the class {class:?}, and there is no such IngressClass"),
            (Some(controller), controllers) if takes(controllers, controller) => return None,
            (Some(controller), _) => {
                format!("the class {class:?} belongs to the controller {controller:?}")
            }
        };
        Some(Rejected { path, what })
    }

    /// The controller of a class, if there is an IngressClass that says so.
    fn controller(&self, cluster: &Cluster, class: &str) -> Option<&str> {
        let of_cluster = self.by_name.get(cluster)?;
        let object = of_cluster.get(&class.to_ascii_lowercase())?;
        object.spec.as_ref()?.controller.as_deref()
    }
}

fn is_default(class: &IngressClass) -> bool {
    let annotations = class.metadata.annotations.as_ref();
    let default = annotations.and_then(|all| all.get(DEFAULT));
    default.is_some_and(|flag| flag == "true")
}

fn takes(controllers: Controllers, controller: &str) -> bool {
    controller == OWN || (controllers != Controllers::Own && controller == CITRIX)
}

/// Why an object is another controller's.
#[derive(Debug)]
pub(super) struct Rejected {
    pub(super) path: String,
    pub(super) what: String,
}

/// The annotation that named the class before there was a field.
pub(super) const ANNOTATION: &str = "kubernetes.io/ingress.class";

const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

/// This router as `spec.controller` of an IngressClass.
const OWN: &str = "sni-router.io/ingress-controller";

/// NetScaler's controller, whose manifests this router reads.
const CITRIX: &str = "citrix.com/ingress-controller";
