//! What is written into the status of Listeners and Ingresses: the differences between what is there
//! and what should be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use sni_router_core::manifest::crd;
use sni_router_core::model::Cluster;
use sni_router_core::status::Desired;

use super::definition::Kept;
use super::inputs::Known;
use super::kind::Kind;
use super::object::{FIELD_MANAGER, Id, Object, Seen};

/// A status to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub kind: Kind,
    pub id: Id,
    /// Whose object: one of the same name that comes later is another.
    pub uid: String,
    /// As it shall be; empty to take back what this router wrote.
    pub status: Value,
    /// The same without times: what is the same says the same.
    pub meaning: String,
    /// Whether fields are there from before each installation had a field manager: those go.
    pub inherits: bool,
}

/// What differs in a cluster: nothing before all its objects have been judged, and nothing that
/// follows from what may be otherwise by now.
pub fn changes(
    desired: &Desired,
    cluster: &Cluster,
    known: &Known<'_>,
    kept: Kept,
    with_ingresses: bool,
    manager: &str,
    now: &Time,
) -> Vec<Change> {
    // What was not looked at is not to be cleared.
    if !desired.current.contains(cluster) {
        return Vec::new();
    }
    let mut changes = match kept {
        Kept::Nothing => Vec::new(),
        _ => {
            let seen = known.seen(Kind::Listener);
            listeners(desired, cluster, &seen, kept, manager, now)
        }
    };
    if with_ingresses {
        let seen = known.seen(Kind::Ingress);
        changes.extend(ingresses(desired, cluster, &seen, manager));
    }
    changes
}

type AllSeen = BTreeMap<Id, Arc<Seen>>;

fn listeners(
    desired: &Desired,
    cluster: &Cluster,
    seen: &AllSeen,
    kept: Kept,
    manager: &str,
    now: &Time,
) -> Vec<Change> {
    let ours = desired.listeners.iter();
    let ours = ours.filter(|listener| listener.subject.key.cluster == *cluster);
    let mut judged = BTreeSet::new();
    let mut changes = Vec::new();
    for listener in ours {
        let id = id_of(&listener.subject.key);
        let found = seen.get_key_value(&id);
        judged.insert(id);
        let Some((id, seen)) = found else {
            continue;
        };
        if listener.subject.uid.as_ref() != Some(&seen.uid) {
            continue;
        }
        let previous: Option<crd::ListenerStatus> =
            serde_json::from_value(seen.status.clone()).unwrap_or_default();
        let wanted = reduced(listener.as_api(previous.as_ref(), now), kept);
        let previous = previous.map(|previous| own(reduced(previous, kept), &wanted));
        if previous.as_ref() != Some(&wanted) || inherits(seen) {
            let timeless = listener.as_api(None, &Time(Timestamp::UNIX_EPOCH));
            changes.push(Change {
                meaning: json!(timeless).to_string(),
                ..change(Kind::Listener, id, seen, json!(wanted))
            });
        }
    }
    changes.extend(taken_back(Kind::Listener, seen, &judged, manager));
    changes
}

fn ingresses(desired: &Desired, cluster: &Cluster, seen: &AllSeen, manager: &str) -> Vec<Change> {
    let ours = desired.ingresses.iter();
    let ours = ours.filter(|ingress| ingress.subject.key.cluster == *cluster);
    let mut judged = BTreeSet::new();
    let mut changes = Vec::new();
    for ingress in ours {
        let id = id_of(&ingress.subject.key);
        let found = seen.get_key_value(&id);
        if ingress.addresses.is_empty() && !found.is_some_and(|(_, seen)| inherits(seen)) {
            continue;
        }
        judged.insert(id);
        let Some((id, seen)) = found else {
            continue;
        };
        if ingress.subject.uid.as_ref() != Some(&seen.uid) {
            continue;
        }
        let differs = addresses(&seen.status) != ingress.addresses.iter().collect::<Vec<_>>();
        if differs || inherits(seen) {
            let addresses = ingress.addresses.iter().map(|ip| json!({ "ip": ip }));
            let addresses: Vec<_> = addresses.collect();
            let status = match addresses.is_empty() {
                true => json!({}),
                false => json!({ "loadBalancer": { "ingress": addresses } }),
            };
            changes.push(change(Kind::Ingress, id, seen, status));
        }
    }
    changes.extend(taken_back(Kind::Ingress, seen, &judged, manager));
    changes
}

/// What a definition keeps of a status.
fn reduced(status: crd::ListenerStatus, kept: Kept) -> crd::ListenerStatus {
    match kept {
        Kept::Words => crd::ListenerStatus {
            state: status.state,
            status_message: status.status_message,
            ..crd::ListenerStatus::default()
        },
        _ => status,
    }
}

/// Without the conditions of others.
fn own(mut status: crd::ListenerStatus, wanted: &crd::ListenerStatus) -> crd::ListenerStatus {
    if let (Some(there), Some(wanted)) = (&mut status.conditions, &wanted.conditions) {
        let place = |kind: &str| wanted.iter().position(|it| it.type_ == kind);
        there.retain(|it| place(&it.type_).is_some());
        there.sort_by_key(|it| place(&it.type_));
    }
    status
}

fn change(kind: Kind, id: &Id, seen: &Seen, status: Value) -> Change {
    Change {
        kind,
        id: id.clone(),
        uid: seen.uid.clone(),
        meaning: status.to_string(),
        status,
        inherits: inherits(seen),
    }
}

/// Whether a status has fields from before each installation had a field manager.
fn inherits(seen: &Seen) -> bool {
    seen.managers.iter().any(|name| name == FIELD_MANAGER)
}

/// What this installation wrote to objects that it has nothing more to say about. What is there from
/// before is left alone: it may be that of another one, which still writes so.
fn taken_back(kind: Kind, seen: &AllSeen, judged: &BTreeSet<Id>, manager: &str) -> Vec<Change> {
    seen.iter()
        .filter(|(id, seen)| seen.managers.iter().any(|it| it == manager) && !judged.contains(id))
        .map(|(id, seen)| Change {
            inherits: false,
            ..change(kind, id, seen, json!({}))
        })
        .collect()
}

fn addresses(status: &Value) -> Vec<&String> {
    let entries = status["loadBalancer"]["ingress"].as_array();
    let addresses = entries.into_iter().flatten().map(|entry| &entry["ip"]);
    addresses
        .filter_map(|ip| match ip {
            Value::String(ip) => Some(ip),
            _ => None,
        })
        .collect()
}

fn id_of(key: &sni_router_core::model::ObjectKey) -> Id {
    Id {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

impl Change {
    /// Writes it. What others wrote into the same status stays theirs.
    pub async fn write(&self, client: &Client, manager: &str) -> Result<(), kube::Error> {
        self.apply(client, manager, &self.status).await?;
        match self.inherits {
            // By now what shall stay is ours as well.
            true => self.apply(client, FIELD_MANAGER, &json!({})).await,
            false => Ok(()),
        }
    }

    async fn apply(
        &self,
        client: &Client,
        manager: &str,
        status: &Value,
    ) -> Result<(), kube::Error> {
        let resource = self.kind.resource();
        let api: Api<Object> = Api::namespaced_with(client.clone(), &self.id.namespace, &resource);
        let mut patch = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": { "name": self.id.name, "uid": self.uid },
        });
        if *status != json!({}) {
            patch["status"] = status.clone();
        }
        let params = PatchParams::apply(manager).force();
        match api
            .patch_status(&self.id.name, &params, &Patch::Apply(&patch))
            .await
        {
            Ok(_) => Ok(()),
            // It is gone, or another one has its name: the next look will tell.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Whether an API server says no to one object, and not that it has no time or does not know us.
pub fn is_refusal(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => !matches!(status.code, 401 | 429 | 502..=504),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::mirror::Mirror;
    use super::super::section::{Held, Section};
    use super::*;

    /// A mirror with one Listener `web` that has this status, written by this installation.
    fn mirror(manager: &str, status: &Value) -> Mirror {
        let section = Section {
            kind: Kind::Listener,
            namespace: None,
        };
        let object: Object = serde_json::from_value(json!({
            "metadata": {
                "name": "web", "namespace": "edge", "uid": "7",
                "managedFields": [{"manager": manager, "subresource": "status"}],
            },
            "spec": {"protocol": "https"},
            "status": status,
        }))
        .unwrap();
        let mirror = Mirror::new([section.clone()], Arc::default());
        let held = Held::of(Kind::Listener, &object);
        mirror.replace(&section, BTreeMap::from([(object.id(), held)]));
        mirror
    }

    #[test]
    fn conditions_of_others_beside_ours_are_no_difference() {
        let status = |kinds: &[&str]| -> crd::ListenerStatus {
            let conditions = kinds.iter().map(|kind| {
                let time = "2026-01-01T00:00:00Z";
                json!({"type": kind, "status": "True", "reason": "A", "message": "", "lastTransitionTime": time})
            });
            serde_json::from_value(json!({"conditions": conditions.collect::<Vec<_>>()})).unwrap()
        };
        let wanted = status(&["Accepted", "Programmed"]);
        let there = status(&["Programmed", "Healthy", "Accepted"]);
        assert_eq!(own(there, &wanted), wanted);
        assert_ne!(own(status(&["Accepted", "Healthy"]), &wanted), wanted);
    }

    #[test]
    fn status_is_taken_back_only_when_all_objects_of_the_cluster_were_judged() {
        let east: Cluster = "east".parse().unwrap();
        let ours = mirror(MANAGER, &json!({"state": "Served"}));
        let mut desired = Desired::default();
        let due = |desired: &Desired, mirror: &Mirror| {
            let now = Time(Timestamp::UNIX_EPOCH);
            let known = Known::new(mirror, BTreeSet::new());
            changes(desired, &east, &known, Kept::All, true, MANAGER, &now)
        };
        assert!(due(&desired, &ours).is_empty());
        desired.current.insert("west".parse().unwrap());
        assert!(due(&desired, &ours).is_empty());
        desired.current.insert(east.clone());
        let changes = due(&desired, &ours);
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].status, json!({}));
        for manager in ["sni-router/edge/other", FIELD_MANAGER, "another"] {
            let theirs = mirror(manager, &json!({"state": "Served"}));
            assert!(due(&desired, &theirs).is_empty(), "{manager}");
        }
    }

    #[test]
    fn status_is_not_taken_back_where_it_follows_from_what_is_withheld() {
        let ours = mirror(MANAGER, &json!({"state": "Served"}));
        let desired = Desired {
            current: BTreeSet::from([Cluster::default()]),
            ..Desired::default()
        };
        let due = |kind, namespace: &str| {
            let section = Section {
                kind,
                namespace: Some(namespace.into()),
            };
            let known = Known::new(&ours, BTreeSet::from([section]));
            let (cluster, now) = (Cluster::default(), Time(Timestamp::UNIX_EPOCH));
            changes(&desired, &cluster, &known, Kept::All, true, MANAGER, &now).len()
        };
        assert_eq!(due(Kind::Service, "shop"), 1);
        assert_eq!(due(Kind::Service, "edge"), 0);
    }

    const MANAGER: &str = "sni-router/edge/sni-router";
}
