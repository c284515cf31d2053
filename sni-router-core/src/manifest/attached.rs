//! Which Ingresses attach to which Listener.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::annotations::LISTENER;
use super::compile::reference;
use super::facts::IngressFacts;
use super::front::{Front, Part};
use super::last_good::Attaching;
use super::object::Kind;
use super::path::annotation;
use super::sorted::Sorted;
use crate::model::{Cluster, ObjectKey};
use crate::problem::{Problem, Reason};

/// Ingresses by the Listener they are attached to.
pub(super) struct Attached {
    by_listener: HashMap<ObjectKey, Vec<Attaching>>,
    /// Those that are attached to none.
    pub(super) others: Vec<IngressFacts>,
    /// Listeners that are named and not served.
    pub(super) missed: HashSet<ObjectKey>,
}

impl Attached {
    /// Sorts the Ingresses to the Listeners that are served, and tells those that cannot attach.
    pub(super) fn new(
        fronts: &[Front],
        objects: &Sorted,
        ingresses: Vec<Attaching>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut served: BTreeMap<&ObjectKey, &Front> = BTreeMap::new();
        for front in fronts {
            let keys = front.parts.iter().map(|part| part.key.as_ref());
            served.extend(keys.map(|key| (key, front)));
        }
        let names = Names::default();
        let mut attached = Self {
            by_listener: HashMap::new(),
            others: Vec::new(),
            missed: HashSet::new(),
        };
        for ingress in ingresses {
            let wanted = &ingress.reading.listener;
            let key = &ingress.subject.key;
            let problem = match served.get(wanted) {
                None => {
                    attached.missed.insert(wanted.clone());
                    Some(no_listener(key, wanted, objects, &names))
                }
                // A listener is as closed as any of its objects wants it, in whatever cluster.
                Some(front) => front
                    .parts
                    .iter()
                    .find(|part| !is_allowed(part, key, objects))
                    .map(|part| not_allowed(key, &part.key)),
            };
            match problem {
                None => {
                    let of = attached.by_listener.entry(wanted.clone()).or_default();
                    of.push(ingress);
                }
                Some(problem) => {
                    problems.push(problem);
                    attached.others.push(IngressFacts {
                        subject: ingress.subject,
                        vips: Vec::new(),
                    });
                }
            }
        }
        attached
    }

    pub(super) fn to(&self, listener: &ObjectKey) -> &[Attaching] {
        self.by_listener.get(listener).map_or(&[], Vec::as_slice)
    }
}

/// Labels are those of the namespace in the Ingress' own cluster.
fn is_allowed(part: &Part, ingress: &Arc<ObjectKey>, objects: &Sorted) -> bool {
    let allowed = &part.settings.allowed;
    let namespace = &ingress.namespace;
    allowed.allows(namespace, None) || {
        let object = objects.namespaces.get(&ingress.beside("", namespace));
        // A namespace that is described has labels, and be it none.
        let labels = object.map(|object| object.metadata.labels.as_ref().unwrap_or(&NONE));
        allowed.allows(namespace, labels)
    }
}

fn not_allowed(key: &ObjectKey, listener: &ObjectKey) -> Problem {
    let what = format!(
        "the Listener {listener} does not take Ingresses of the namespace {}",
        key.namespace
    );
    let hint = "its owner can name the namespace in sni-router.io/allowed-namespaces";
    Problem::error(&reference(Kind::Ingress, key), annotation(LISTENER), what)
        .reason(Reason::NotAllowedByListener)
        .hint(hint)
}

/// The first Listener of each name in a cluster; only made when one is missing.
type Names<'a> = OnceCell<HashMap<(&'a Cluster, &'a str), &'a ObjectKey>>;

fn no_listener<'a>(
    key: &ObjectKey,
    wanted: &ObjectKey,
    objects: &'a Sorted,
    names: &Names<'a>,
) -> Problem {
    let ingress = reference(Kind::Ingress, key);
    let path = annotation(LISTENER);
    if objects.listeners.contains_key(wanted) || objects.is_bad(Kind::Listener, wanted) {
        let what = format!("the Listener {wanted} is not served, so this is not either");
        return Problem::error(&ingress, path, what)
            .reason(Reason::ListenerRefused)
            .hint("see the problems of the Listener");
    }
    let is_default = objects.ingresses.get(key).is_some_and(|ingress| {
        let annotations = ingress.metadata.annotations.as_ref().unwrap_or(&NONE);
        !annotations.contains_key(LISTENER)
    });
    let (path, what) = match is_default {
        true => (
            "metadata.annotations".to_owned(),
            format!("there is no Listener {wanted}, which --default-listener names"),
        ),
        false => (path, format!("there is no Listener {wanted}")),
    };
    let problem = Problem::error(&ingress, path, what).reason(Reason::ListenerNotFound);
    let names = names.get_or_init(|| {
        let mut names = HashMap::new();
        for other in objects.listeners.keys() {
            let name = (&other.cluster, other.name.as_str());
            names.entry(name).or_insert(other.as_ref());
        }
        names
    });
    match names.get(&(&wanted.cluster, wanted.name.as_str())) {
        Some(other) => problem.hint(format!("did you mean {other}")),
        None if is_default => problem.hint("add it, or name another with the flag"),
        None => problem.hint("write name, or namespace/name"),
    }
}

static NONE: BTreeMap<String, String> = BTreeMap::new();
