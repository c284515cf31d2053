//! Objects as they come from an API server, and the texts that are kept of them.
//!
//! A text has what the router reads and nothing else: no status, no managed fields, no annotations
//! or labels of others, so that a change which means nothing is none. Private keys are passed over
//! while an answer is decoded: no value of this program ever holds one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use kube::Resource;
use kube::core::{ApiResource, DynamicResourceScope, ObjectMeta};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::kind::Kind;
use super::pem::certificates;
use super::section::Section;

/// An object of any kind that is watched.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Object {
    #[serde(default)]
    metadata: ObjectMeta,
    spec: Option<Value>,
    status: Option<Value>,
    address_type: Option<String>,
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Value>,
    #[serde(rename = "type")]
    secret_type: Option<String>,
    data: Option<SecretData>,
}

/// What is read of a slice's endpoint; where it runs is noise.
#[derive(Clone, Debug, Deserialize)]
struct Endpoint {
    addresses: Value,
    conditions: Option<Value>,
}

/// What is read of a Secret's data. `tls.key` has no field, so it is skipped where it stands.
#[derive(Clone, Debug, Deserialize)]
struct SecretData {
    #[serde(rename = "tls.crt", default, deserialize_with = "without_key")]
    certificate: Option<String>,
}

/// Some put the key beside the certificate.
fn without_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.map(|text| certificates(&text)))
}

/// An object by namespace (empty where it has none) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    pub namespace: String,
    pub name: String,
}

/// What an object's status says now, and which installations of the router wrote some of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub uid: String,
    pub status: Value,
    /// Their field managers.
    pub managers: Vec<String>,
    /// What it follows from beyond its own namespace.
    pub named: Vec<Section>,
}

impl Object {
    pub fn id(&self) -> Id {
        Id {
            namespace: self.metadata.namespace.clone().unwrap_or_default(),
            name: self.metadata.name.clone().unwrap_or_default(),
        }
    }

    /// The object as a manifest, always the same for the same meaning.
    pub fn text(&self, kind: Kind) -> Arc<str> {
        let mut fields = Map::from_iter([
            ("apiVersion".to_owned(), kind.resource().api_version.into()),
            ("kind".to_owned(), kind.as_str().into()),
            ("metadata".to_owned(), self.metadata(kind)),
        ]);
        let mut put = |name: &str, value: Option<Value>| {
            fields.extend(value.map(|value| (name.to_owned(), value)));
        };
        match kind {
            Kind::Listener | Kind::Ingress | Kind::IngressClass | Kind::Service => {
                put("spec", self.spec.clone());
            }
            Kind::EndpointSlice => {
                put("addressType", self.address_type.clone().map(Value::from));
                put("endpoints", self.endpoints.as_deref().map(endpoints));
                put("ports", self.ports.clone());
            }
            Kind::Secret => {
                put("type", self.secret_type.clone().map(Value::from));
                let certificate = self
                    .data
                    .as_ref()
                    .and_then(|data| data.certificate.as_ref());
                put("data", certificate.map(|pem| json!({ "tls.crt": pem })));
            }
            Kind::Namespace => {}
        }
        Value::Object(fields).to_string().into()
    }

    /// What the status of a Listener or an Ingress says, which follows from what is `named` too.
    pub fn seen(&self, named: Vec<Section>) -> Seen {
        let managed = self.metadata.managed_fields.iter().flatten();
        let managers = managed
            .filter(|entry| entry.subresource.as_deref() == Some("status"))
            .filter_map(|entry| entry.manager.as_deref())
            .filter(|name| name.split('/').next() == Some(FIELD_MANAGER));
        Seen {
            uid: self.metadata.uid.clone().unwrap_or_default(),
            status: self.status.clone().unwrap_or_default(),
            managers: managers.map(str::to_owned).collect(),
            named,
        }
    }

    /// The Secrets that a Listener names.
    pub fn secrets(&self) -> Vec<Id> {
        let certificates = self.spec.as_ref().map(|spec| &spec["certificates"]);
        let certificates = certificates.and_then(Value::as_array).into_iter().flatten();
        certificates
            .filter_map(|certificate| {
                // `name` beside an empty `secret` is what the vendor's own example becomes.
                let named = match &certificate["secret"] {
                    Value::Object(_) => &certificate["secret"],
                    _ => certificate,
                };
                let namespace = named["namespace"].as_str();
                Some(Id {
                    namespace: namespace
                        .or(self.metadata.namespace.as_deref())
                        .unwrap_or_default()
                        .to_owned(),
                    name: named["name"].as_str()?.to_owned(),
                })
            })
            .collect()
    }

    fn metadata(&self, kind: Kind) -> Value {
        let meta = &self.metadata;
        let mut fields = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            fields.extend(value.map(|value| (name.to_owned(), value)));
        };
        put("name", meta.name.clone().map(Value::from));
        put("namespace", meta.namespace.clone().map(Value::from));
        if matches!(kind, Kind::Listener | Kind::Ingress) {
            put("uid", meta.uid.clone().map(Value::from));
            put("generation", meta.generation.map(Value::from));
            put("creationTimestamp", json!(meta.creation_timestamp).into());
        }
        put(
            "annotations",
            chosen(meta.annotations.as_ref(), |key| {
                kind_reads_annotation(kind, key)
            }),
        );
        put(
            "labels",
            chosen(meta.labels.as_ref(), |key| match kind {
                Kind::EndpointSlice => key == "kubernetes.io/service-name",
                Kind::Namespace => true,
                _ => false,
            }),
        );
        Value::Object(fields)
    }
}

/// kubectl keeps a copy of the whole object in an annotation, Helm and Argo CD their own marks.
fn kind_reads_annotation(kind: Kind, key: &str) -> bool {
    let group = key.split('/').next().unwrap_or_default();
    match kind {
        Kind::Listener | Kind::Ingress => {
            ["citrix.com", "sni-router.io", "kubernetes.io"]
                .iter()
                .any(|ours| group == *ours || group.ends_with(&format!(".{ours}")))
                && group != "kubectl.kubernetes.io"
        }
        Kind::IngressClass => group == "ingressclass.kubernetes.io",
        _ => false,
    }
}

fn chosen(
    map: Option<&BTreeMap<String, String>>,
    is_chosen: impl Fn(&str) -> bool,
) -> Option<Value> {
    let chosen: Map<_, _> = map?
        .iter()
        .filter(|(key, _)| is_chosen(key))
        .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
        .collect();
    (!chosen.is_empty()).then(|| chosen.into())
}

fn endpoints(endpoints: &[Endpoint]) -> Value {
    endpoints
        .iter()
        .map(|endpoint| match &endpoint.conditions {
            Some(conditions) => {
                json!({ "addresses": endpoint.addresses, "conditions": conditions })
            }
            None => json!({ "addresses": endpoint.addresses }),
        })
        .collect()
}

impl Resource for Object {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Whose fields a status is made of, for server-side apply: `sni-router/NAMESPACE/NAME`, of the Lease of an
/// installation. Once this alone was the field manager of all of them.
pub const FIELD_MANAGER: &str = "sni-router";

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn object(value: Value) -> Object {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn text_of_a_secret_has_its_certificate_and_no_key() {
        let certificate = "-----BEGIN CERTIFICATE-----\nbGVhZg==\n-----END CERTIFICATE-----\n";
        let key = "-----BEGIN PRIVATE KEY-----\nUFJJVkFURQ==\n-----END PRIVATE KEY-----\n";
        let combined = json!(ByteString(format!("{certificate}{key}").into()));
        let secret = object(json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {
                "name": "web", "namespace": "shop", "resourceVersion": "7",
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "PRIVATE"},
            },
            "data": {"tls.crt": combined, "tls.key": "PRIVATE", "other": "PRIVATE"},
        }));
        assert!(!format!("{secret:?}").contains("tls.key"));
        let text = secret.text(Kind::Secret);
        let expected = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "web", "namespace": "shop"},
            "data": {"tls.crt": certificates(combined.as_str().unwrap())},
        });
        assert_ne!(expected["data"]["tls.crt"], combined);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    }

    #[test]
    fn text_stays_when_only_noise_changes() {
        let slice = |noise: &str| {
            object(json!({
                "metadata": {
                    "name": "web-1", "namespace": "shop", "resourceVersion": noise, "uid": noise,
                    "labels": {"kubernetes.io/service-name": "web", "controller": noise},
                    "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": noise},
                    "managedFields": [{"manager": noise}],
                },
                "addressType": "IPv4",
                "endpoints": [{
                    "addresses": ["192.0.2.1"], "conditions": {"ready": true},
                    "nodeName": noise, "targetRef": {"name": noise},
                }],
                "ports": [{"port": 443}],
            }))
            .text(Kind::EndpointSlice)
        };
        assert_eq!(slice("1"), slice("2"));
        assert!(slice("1").contains("192.0.2.1") && slice("1").contains("service-name"));
    }

    #[test]
    fn annotations_are_kept_where_they_are_read() {
        let annotations = json!({
            "ingress.citrix.com/listener": "web",
            "sni-router.io/cluster-policy": "spread",
            "kubernetes.io/ingress.class": "x",
            "nginx.ingress.kubernetes.io/ssl-passthrough": "true",
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
            "argocd.argoproj.io/sync-wave": "1",
        });
        let ingress = object(json!({"metadata": {"name": "a", "annotations": annotations}}));
        let text = ingress.text(Kind::Ingress);
        let kept: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            kept["metadata"]["annotations"].as_object().unwrap().len(),
            4
        );
        assert!(!text.contains("last-applied") && !text.contains("argocd"));
    }

    #[test]
    fn secrets_of_a_listener_are_found_also_where_the_name_stands_beside() {
        let listener = object(json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"certificates": [
                {"secret": {"name": "a"}},
                {"secret": {"name": "b", "namespace": "pki"}},
                {"secret": null, "name": "c"},
                {"preconfigured": "d"},
                7,
            ]},
        }));
        let names: Vec<_> = listener
            .secrets()
            .into_iter()
            .map(|id| format!("{}/{}", id.namespace, id.name))
            .collect();
        assert_eq!(names, ["shop/a", "pki/b", "shop/c"]);
    }

    #[test]
    fn installations_are_known_by_what_they_wrote_into_a_status() {
        let ingress = |manager: &str, subresource: &str| {
            object(json!({"metadata": {"name": "a", "managedFields": [
                {"manager": manager, "subresource": subresource},
            ]}}))
            .seen(Vec::new())
            .managers
        };
        for name in ["sni-router", "sni-router/edge/a"] {
            assert_eq!(ingress(name, "status"), [name]);
            assert_eq!(ingress(name, ""), [""; 0]);
        }
        for name in ["nsic", "sni-router-operator"] {
            assert_eq!(ingress(name, "status"), [""; 0]);
        }
    }
}
