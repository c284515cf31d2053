//! Objects: a document's value as one of the kinds that are read.

use std::fmt;
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::check::Check;
use super::compile::reference;
use super::crd::{Listener, strip_nulls};
use super::report::Report;
use super::shape::Shape;
use super::slices;
use crate::model::{Cluster, ObjectKey};
use crate::problem::{ObjectRef, Problem, Severity};

/// The kinds that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Listener,
    Ingress,
    IngressClass,
    Service,
    Secret,
    EndpointSlice,
    Namespace,
}

/// What makes an object the same one in the next snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) kind: Kind,
    /// The namespace is empty for kinds that have none. Shared, because every map of objects has
    /// it.
    pub(super) id: Arc<ObjectKey>,
}

/// An object that has the shape of its kind.
#[derive(Clone, Debug)]
pub(super) enum Object {
    Listener(Arc<Listener>),
    Ingress(Arc<Ingress>),
    IngressClass(Arc<IngressClass>),
    Service(Arc<Service>),
    Secret(Arc<Secret>),
    EndpointSlice(Arc<EndpointSlice>),
    Namespace(Arc<Namespace>),
}

impl Kind {
    pub(super) const ALL: [Self; 7] = [
        Self::Listener,
        Self::Ingress,
        Self::IngressClass,
        Self::Service,
        Self::Secret,
        Self::EndpointSlice,
        Self::Namespace,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Listener => "Listener",
            Self::Ingress => "Ingress",
            Self::IngressClass => "IngressClass",
            Self::Service => "Service",
            Self::Secret => "Secret",
            Self::EndpointSlice => "EndpointSlice",
            Self::Namespace => "Namespace",
        }
    }

    pub(super) fn api_version(self) -> &'static str {
        match self {
            Self::Listener => "citrix.com/v1",
            Self::Ingress | Self::IngressClass => "networking.k8s.io/v1",
            Self::Service | Self::Secret | Self::Namespace => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
        }
    }

    pub(super) fn is_namespaced(self) -> bool {
        !matches!(self, Self::IngressClass | Self::Namespace)
    }

    fn shape(self) -> &'static Shape {
        static LISTENER: LazyLock<Shape> = LazyLock::new(Shape::of_object::<Listener>);
        static INGRESS: LazyLock<Shape> = LazyLock::new(Shape::of_object::<Ingress>);
        static CLASS: LazyLock<Shape> = LazyLock::new(Shape::of_object::<IngressClass>);
        static SERVICE: LazyLock<Shape> = LazyLock::new(Shape::of_object::<Service>);
        static SECRET: LazyLock<Shape> = LazyLock::new(Shape::of_object::<Secret>);
        static SLICE: LazyLock<Shape> = LazyLock::new(Shape::of_object::<EndpointSlice>);
        static NAMESPACE: LazyLock<Shape> = LazyLock::new(Shape::of_object::<Namespace>);
        match self {
            Self::Listener => &LISTENER,
            Self::Ingress => &INGRESS,
            Self::IngressClass => &CLASS,
            Self::Service => &SERVICE,
            Self::Secret => &SECRET,
            Self::EndpointSlice => &SLICE,
            Self::Namespace => &NAMESPACE,
        }
    }

    /// Whether unknown fields are worth a word: only where people write the object by hand for
    /// this router. Other objects may come from a newer Kubernetes.
    fn reports_unknown_fields(self) -> bool {
        matches!(self, Self::Listener | Self::Ingress)
    }
}

impl Key {
    pub(super) fn new(kind: Kind, cluster: &Cluster, namespace: &str, name: &str) -> Self {
        let id = ObjectKey {
            cluster: cluster.clone(),
            namespace: namespace.into(),
            name: name.into(),
        };
        Self {
            kind,
            id: Arc::new(id),
        }
    }

    pub(super) fn reference(&self) -> ObjectRef {
        reference(self.kind, &self.id)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reference().fmt(f)
    }
}

/// Reads a value as the object `key` names. Where there is an object, the problems are only about
/// parts of it.
pub(super) fn read(key: &Key, mut value: Value) -> (Option<Object>, Vec<Problem>) {
    let reference = key.reference();
    let check = Check {
        object: &reference,
        unknown_fields: key.kind.reports_unknown_fields(),
        quote: key.kind != Kind::Secret,
    };
    let mut problems = check.run(&value, key.kind.shape());
    if problems
        .iter()
        .any(|problem| problem.severity == Severity::Error)
    {
        return (None, problems);
    }
    trim(key, &mut value);
    match decode(key.kind, value) {
        Ok(object) => {
            if let Object::EndpointSlice(slice) = &object {
                let mut report = Report::new(reference);
                slices::check(slice, &mut report);
                problems.extend(report.into_problems());
            }
            (Some(object), problems)
        }
        Err(error) => {
            let path = error.path().to_string();
            let path = if path == "." { String::new() } else { path };
            // The decoder's words quote values.
            let what = match key.kind {
                Kind::Secret => "cannot be decoded".into(),
                _ => format!("cannot be read: {}", error.inner()),
            };
            let hint = match key.kind {
                Kind::Secret if path.starts_with("data.") => {
                    "write base64, or the text as it is below stringData"
                }
                _ => "",
            };
            problems.push(Problem::error(&reference, path, what).hint(hint));
            (None, problems)
        }
    }
}

/// Removes what nobody asks for: it would only cost memory, or be a secret.
fn trim(key: &Key, value: &mut Value) {
    let Some(fields) = value.as_object_mut() else {
        return;
    };
    fields.remove("status");
    fields.values_mut().for_each(strip_nulls);
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        metadata.insert("namespace".into(), key.id.namespace.clone().into());
    }
    if key.kind == Kind::Secret {
        for map in ["data", "stringData"] {
            if let Some(entries) = fields.get_mut(map).and_then(Value::as_object_mut) {
                entries.retain(|name, _| name == "tls.crt");
            }
        }
    }
}

type DecodeError = serde_path_to_error::Error<serde_json::Error>;

fn decode(kind: Kind, value: Value) -> Result<Object, DecodeError> {
    Ok(match kind {
        Kind::Listener => Object::Listener(typed(value)?),
        Kind::Ingress => Object::Ingress(typed(value)?),
        Kind::IngressClass => Object::IngressClass(typed(value)?),
        Kind::Service => Object::Service(typed(value)?),
        Kind::Secret => Object::Secret(typed(value)?),
        Kind::EndpointSlice => Object::EndpointSlice(typed(value)?),
        Kind::Namespace => Object::Namespace(typed(value)?),
    })
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<Arc<T>, DecodeError> {
    serde_path_to_error::deserialize(value).map(Arc::new)
}
