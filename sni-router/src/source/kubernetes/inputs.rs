//! What the status and the events of an object follow from, and whether that is known.
//!
//! What is withheld, or fails, is served as it was known last. It may be otherwise by now, so
//! nothing is written that follows from it: least of all that an object is not served.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::Resource as _;
use sni_router_core::status::Event;

use super::kind::Kind;
use super::mirror::Mirror;
use super::object::{Id, Object, Seen};
use super::section::Section;

/// The sections beyond its own namespace that an object's status follows from: those of the Secrets
/// that a Listener names, and of the Listener that an Ingress does.
pub fn named(kind: Kind, object: &Object) -> Vec<Section> {
    let section = |kind, namespace| Section { kind, namespace };
    match kind {
        Kind::Listener => {
            let namespaces = object.secrets().into_iter().map(|id| id.namespace);
            let namespaces: BTreeSet<_> = namespaces.collect();
            let sections = namespaces.into_iter();
            sections
                .map(|namespace| section(Kind::Secret, Some(namespace)))
                .collect()
        }
        Kind::Ingress => {
            let annotations = object.meta().annotations.as_ref();
            let listener = annotations.and_then(|all| all.get("ingress.citrix.com/listener"));
            let own = object.meta().namespace.clone();
            // Where none is named it is that of --default-listener, wherever that is.
            let namespace = listener.and_then(|text| match text.trim().split_once('/') {
                Some((namespace, _)) => Some(namespace.to_owned()),
                None => own,
            });
            vec![section(Kind::Listener, namespace)]
        }
        _ => Vec::new(),
    }
}

/// A mirror, and what of it may be otherwise by now.
pub struct Known<'a> {
    mirror: &'a Mirror,
    unsure: BTreeSet<Section>,
}

impl<'a> Known<'a> {
    pub fn new(mirror: &'a Mirror, unsure: BTreeSet<Section>) -> Self {
        Self { mirror, unsure }
    }

    /// What the status of the objects of `kind` says, as far as it is known what it should say.
    pub fn seen(&self, kind: Kind) -> BTreeMap<Id, Arc<Seen>> {
        let mut seen = self.mirror.seen(kind);
        seen.retain(|id, seen| {
            self.is_sure(of_status(kind), Some(&id.namespace)) && self.is_sure_of_named(seen)
        });
        seen
    }

    /// Those of `events` that would be the same if nothing were withheld.
    pub fn told<'e>(&self, events: impl Iterator<Item = &'e Event>) -> Vec<&'e Event> {
        if self.unsure.is_empty() {
            return events.collect();
        }
        let [listeners, ingresses] =
            [Kind::Listener, Kind::Ingress].map(|kind| self.mirror.seen(kind));
        let is_told = |event: &&Event| {
            let object = &event.object;
            let kind = Kind::ALL.into_iter().find(|it| it.as_str() == object.kind);
            let Some(kind) = kind else {
                return false;
            };
            let namespace = object.namespace.as_deref();
            let id = Id {
                namespace: namespace.unwrap_or_default().to_owned(),
                name: object.name.clone(),
            };
            let is_sure = self.is_sure(&[kind], namespace);
            match kind {
                Kind::Listener | Kind::Ingress => {
                    let seen = match kind {
                        Kind::Listener => listeners.get(&id),
                        _ => ingresses.get(&id),
                    };
                    is_sure
                        && self.is_sure(of_status(kind), namespace)
                        && self.is_sure(&BACKENDS, namespace)
                        && seen.is_some_and(|seen| self.is_sure_of_named(seen))
                }
                _ => is_sure,
            }
        };
        events.filter(is_told).collect()
    }

    /// Whether the sections of these kinds, in a namespace or in any, are as they are now.
    fn is_sure(&self, kinds: &[Kind], namespace: Option<&str>) -> bool {
        kinds.iter().all(|kind| {
            self.is_sure_of(&Section {
                kind: *kind,
                namespace: namespace.map(str::to_owned),
            })
        })
    }

    fn is_sure_of_named(&self, seen: &Seen) -> bool {
        seen.named.iter().all(|section| self.is_sure_of(section))
    }

    fn is_sure_of(&self, section: &Section) -> bool {
        !self.unsure.iter().any(|unsure| unsure.meets(section))
    }
}

/// The kinds whose objects, in the namespace of an object of `kind`, its status follows from.
fn of_status(kind: Kind) -> &'static [Kind] {
    match kind {
        // How many routes it has, and its own backend.
        Kind::Listener => &[
            Kind::Listener,
            Kind::IngressClass,
            Kind::Ingress,
            Kind::Service,
            Kind::EndpointSlice,
        ],
        // By the labels of its namespace it may attach.
        Kind::Ingress => &[Kind::Ingress, Kind::IngressClass, Kind::Namespace],
        _ => &[],
    }
}

const BACKENDS: [Kind; 2] = [Kind::Service, Kind::EndpointSlice];

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sni_router_core::problem::{ObjectRef, Severity};

    use super::super::section::Held;
    use super::*;

    fn section(kind: Kind, namespace: &str) -> Section {
        Section {
            kind,
            namespace: Some(namespace.into()),
        }
    }

    fn put(mirror: &Mirror, kind: Kind, namespace: &str, object: &Value) {
        let mut object = object.clone();
        object["metadata"]["name"] = json!("web");
        object["metadata"]["namespace"] = json!(namespace);
        let object: Object = serde_json::from_value(object).unwrap();
        let held = Held::of(kind, &object);
        mirror.put(&section(kind, namespace), object.id(), held);
    }

    /// A Listener and an Ingress in `edge`, an Ingress of the same Listener in `shop`, and one that
    /// names none in `web`.
    fn mirror() -> Mirror {
        let mirror = Mirror::new([], Arc::default());
        let secret =
            json!({"spec": {"certificates": [{"secret": {"name": "a", "namespace": "pki"}}]}});
        put(&mirror, Kind::Listener, "edge", &secret);
        let names = |listener: &str| json!({"metadata": {"annotations": {"ingress.citrix.com/listener": listener}}});
        put(&mirror, Kind::Ingress, "edge", &names("web"));
        put(&mirror, Kind::Ingress, "shop", &names("edge/web"));
        put(&mirror, Kind::Ingress, "web", &json!({}));
        mirror
    }

    #[test]
    fn status_is_not_judged_when_what_it_follows_from_is_unsure_and_else_it_is() {
        let mirror = mirror();
        let judged = |kind, unsure: Section| {
            let known = Known::new(&mirror, BTreeSet::from([unsure]));
            let ids = known.seen(kind).into_keys();
            ids.map(|id| id.namespace).collect::<Vec<_>>()
        };
        let all = ["edge", "shop", "web"];
        let ingresses = |unsure| judged(Kind::Ingress, unsure);
        assert_eq!(ingresses(section(Kind::Secret, "pki")), all);
        assert_eq!(ingresses(section(Kind::Service, "shop")), all);
        assert_eq!(ingresses(section(Kind::Ingress, "shop")), ["edge", "web"]);
        assert_eq!(ingresses(section(Kind::Namespace, "shop")), ["edge", "web"]);
        assert_eq!(ingresses(section(Kind::Listener, "edge")), [""; 0]);
        assert_eq!(ingresses(section(Kind::Listener, "shop")), ["edge", "shop"]);
        let classes = Section {
            kind: Kind::IngressClass,
            namespace: None,
        };
        assert_eq!(ingresses(classes.clone()), [""; 0]);

        let listeners = |unsure| judged(Kind::Listener, unsure);
        assert_eq!(listeners(section(Kind::Ingress, "shop")), ["edge"]);
        assert_eq!(listeners(section(Kind::Secret, "edge")), ["edge"]);
        let secrets = Section {
            kind: Kind::Secret,
            namespace: None,
        };
        for unsure in [
            classes,
            secrets,
            section(Kind::Listener, "edge"),
            section(Kind::Service, "edge"),
            section(Kind::Secret, "pki"),
        ] {
            assert_eq!(listeners(unsure.clone()), [""; 0], "{unsure:?}");
        }
    }

    #[test]
    fn event_is_not_told_when_what_it_follows_from_is_unsure_and_else_it_is() {
        let mirror = mirror();
        let events = ["Ingress", "Service"].map(|kind| Event {
            object: ObjectRef {
                kind: kind.into(),
                cluster: "east".parse().unwrap(),
                namespace: Some("shop".into()),
                name: "web".into(),
            },
            uid: None,
            severity: Severity::Error,
            reason: "A",
            message: String::new(),
        });
        let told = |unsure: &[Section]| {
            let known = Known::new(&mirror, unsure.iter().cloned().collect());
            let told = known.told(events.iter()).into_iter();
            told.map(|event| event.object.kind.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(told(&[]).len(), 2);
        assert_eq!(told(&[section(Kind::Service, "edge")]).len(), 2);
        assert_eq!(told(&[section(Kind::EndpointSlice, "shop")]), ["Service"]);
        assert_eq!(told(&[section(Kind::Listener, "edge")]), ["Service"]);
        assert_eq!(told(&[section(Kind::Service, "shop")]), [""; 0]);
    }
}
