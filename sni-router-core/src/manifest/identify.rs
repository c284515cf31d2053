//! Which object a value is: its kind, namespace and name, and what a `List` holds.

use serde_json::Value;

use super::names::is_object_name;
use super::nearest::nearest;
use super::object::{Key, Kind};
use crate::problem::{ObjectRef, Problem};

/// What a document, or an item of a list, turned out to be.
pub(super) enum Identity {
    /// An object of a kind that is read.
    Known(Key),
    /// A list of objects; the API version and kind of items that do not name their own.
    List(Vec<Value>, Option<(String, String)>),
    /// An object of another kind, or one that cannot be named.
    Other(Problem),
}

/// Looks at `value`'s API version, kind, namespace and name, and takes a list apart.
///
/// `file` is blamed for what has no name. `inherited` is what the surrounding list says about its
/// items.
pub(super) fn identify(
    value: &mut Value,
    file: &ObjectRef,
    inherited: Option<&(String, String)>,
) -> Identity {
    let Some(fields) = value.as_object_mut() else {
        let what = format!(
            "{} is not a Kubernetes object",
            super::check::kind_of(value)
        );
        return Identity::Other(Problem::error(file, "", what));
    };
    if let Some((api_version, kind)) = inherited {
        fields
            .entry("apiVersion")
            .or_insert_with(|| api_version.clone().into());
        fields.entry("kind").or_insert_with(|| kind.clone().into());
    }
    let text = |name: &str| {
        fields
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if kind.is_empty() {
        let problem = Problem::error(file, "", "an object without a kind");
        return Identity::Other(problem.hint("write apiVersion, kind and metadata.name"));
    }
    if let Some(item_kind) = kind.strip_suffix("List")
        && let Some(Value::Array(items)) = fields.remove("items")
    {
        let inherited = (!item_kind.is_empty()).then(|| (api_version, item_kind.to_owned()));
        return Identity::List(items, inherited);
    }
    let metadata = fields.get("metadata").unwrap_or(&Value::Null);
    let name = metadata["name"].as_str().unwrap_or_default();
    let namespace = match &metadata["namespace"] {
        Value::String(namespace) if !namespace.is_empty() => namespace.as_str(),
        _ => "default",
    };
    let Some(known) = Kind::ALL.into_iter().find(|known| known.name() == kind) else {
        let object = unread_object(&kind, namespace, name, file);
        return Identity::Other(unread_kind(&object, &api_version, &kind));
    };
    if api_version != known.api_version() {
        let object = unread_object(&kind, namespace, name, file);
        return Identity::Other(wrong_version(&object, known, &api_version));
    }
    if !is_object_name(name) {
        let what = match &metadata["name"] {
            Value::Null => format!("this {kind} has no name"),
            Value::String(name) => format!("{name:?} cannot be a name"),
            _ => "is not a string".into(),
        };
        let hint = "names are lower-case letters, digits, - and .";
        return Identity::Other(Problem::error(file, "metadata.name", what).hint(hint));
    }
    if known.is_namespaced() && !is_object_name(namespace) {
        let object = unread_object(&kind, namespace, name, file);
        let what = format!("{namespace:?} cannot be the name of a namespace");
        return Identity::Other(Problem::error(&object, "metadata.namespace", what));
    }
    let namespace = if known.is_namespaced() { namespace } else { "" };
    Identity::Known(Key::new(known, &file.cluster, namespace, name))
}

fn unread_object(kind: &str, namespace: &str, name: &str, file: &ObjectRef) -> ObjectRef {
    if name.is_empty() {
        return file.clone();
    }
    ObjectRef {
        kind: kind.into(),
        cluster: file.cluster.clone(),
        namespace: Some(namespace.into()),
        name: name.into(),
    }
}

/// Kinds nobody reads are normal in a directory of manifests, so that is a note; a kind that
/// looks like a typing error is not.
fn unread_kind(object: &ObjectRef, api_version: &str, kind: &str) -> Problem {
    if let Some(hint) = expected_elsewhere(kind) {
        let what = format!("the kind {kind} ({api_version}) is skipped");
        return Problem::warning(object, "kind", what).hint(hint);
    }
    let ours = Kind::ALL.into_iter().find(|known| {
        known.api_version() == api_version || known.name().eq_ignore_ascii_case(kind)
    });
    let near = nearest(kind, Kind::ALL.into_iter().map(Kind::name));
    match (ours, near) {
        (Some(_), Some(near)) => {
            let what = format!("the kind {kind} ({api_version}) is not read");
            Problem::error(object, "kind", what).hint(format!("did you mean {near}"))
        }
        _ => Problem::note(
            object,
            "",
            format!("the kind {kind} ({api_version}) is skipped"),
        ),
    }
}

/// Kinds that a NetScaler user may expect to work.
fn expected_elsewhere(kind: &str) -> Option<&'static str> {
    match kind {
        "Endpoints" => Some("write an EndpointSlice, Endpoints are not read"),
        "HTTPRoute" | "rewritepolicy" | "ratelimit" | "waf" | "bot" | "corspolicy"
        | "authpolicy" | "wildcarddnsentry" | "appqoepolicy" => {
            Some("it is about HTTP, which passes through undecrypted")
        }
        "TLSRoute" => Some("write an Ingress that names a Listener"),
        _ => None,
    }
}

/// Kinds of other groups may have the same name: a Service of serving.knative.dev is none of ours.
fn wrong_version(object: &ObjectRef, known: Kind, api_version: &str) -> Problem {
    let right = known.api_version();
    if api_version.is_empty() {
        return Problem::error(object, "apiVersion", "is missing").hint(format!("write {right}"));
    }
    let ours = [group(right), Some("extensions")].contains(&group(api_version));
    if !ours {
        let what = format!("the kind {} ({api_version}) is skipped", known.name());
        return Problem::note(object, "apiVersion", what);
    }
    let what = format!(
        "{api_version:?} is not the version of {} that is read",
        known.name()
    );
    Problem::error(object, "apiVersion", what).hint(format!("write {right}"))
}

fn group(api_version: &str) -> Option<&str> {
    api_version.rsplit_once('/').map(|(group, _)| group)
}
