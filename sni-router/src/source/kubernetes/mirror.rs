//! What the API server of one cluster said last: a text for every object that is read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use super::kind::Kind;
use super::object::{Id, Object, Seen};

/// Objects of one kind, of one namespace or of all: what one watch gives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Section {
    pub kind: Kind,
    /// `None` for all.
    pub namespace: Option<String>,
}

impl Section {
    /// Whether an object of its kind is one of these.
    fn has(&self, id: &Id) -> bool {
        let namespace = self.namespace.as_ref();
        namespace.is_none_or(|namespace| *namespace == id.namespace)
    }
}

/// The objects of one cluster, filled by its watches.
#[derive(Debug)]
pub struct Mirror {
    state: Mutex<State>,
    /// Woken by every change, of any cluster.
    dirty: Arc<Notify>,
    /// Woken when Secrets are named that were passed over.
    secrets_wanted: Notify,
    /// Woken when all Listeners have been listed.
    listeners_listed: Notify,
    /// Woken when an object has changed that has a status.
    seen_changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    sections: BTreeMap<Section, Option<Objects>>,
    /// Secrets that Listeners name.
    wanted: BTreeSet<Id>,
    /// Sections of Secrets that must be listed again, since one is wanted that was passed over, and
    /// whether that has begun.
    secrets_pending: BTreeMap<Section, bool>,
    last_event: Option<SystemTime>,
}

type Objects = BTreeMap<Id, Held>;

/// What is kept of an object.
#[derive(Clone, Debug)]
pub struct Held {
    text: Arc<str>,
    seen: Option<Arc<Seen>>,
    secrets: Vec<Id>,
}

impl Held {
    pub fn of(kind: Kind, object: &Object) -> Self {
        Self {
            text: object.text(kind),
            seen: matches!(kind, Kind::Listener | Kind::Ingress).then(|| object.seen().into()),
            secrets: match kind {
                Kind::Listener => object.secrets(),
                _ => Vec::new(),
            },
        }
    }
}

impl Mirror {
    /// Complete when all of `sections` have been listed.
    pub fn new(sections: impl IntoIterator<Item = Section>, dirty: Arc<Notify>) -> Self {
        let sections = sections.into_iter().map(|section| (section, None));
        Self {
            state: Mutex::new(State {
                sections: sections.collect(),
                ..State::default()
            }),
            dirty,
            secrets_wanted: Notify::new(),
            listeners_listed: Notify::new(),
            seen_changed: Notify::new(),
        }
    }

    /// Takes what a list said: everything else of the section is gone.
    pub fn replace(&self, section: &Section, mut objects: BTreeMap<Id, Held>) {
        let mut state = self.lock();
        if section.kind == Kind::Secret {
            objects.retain(|id, _| state.wanted.contains(id));
            state.secrets_pending.remove(section);
        }
        state.sections.insert(section.clone(), Some(objects));
        self.changed(state, section);
    }

    /// Takes an object that is new or has changed.
    pub fn put(&self, section: &Section, id: Id, held: Held) {
        let mut state = self.lock();
        if section.kind == Kind::Secret && !state.wanted.contains(&id) {
            return;
        }
        let objects = state.sections.entry(section.clone()).or_default();
        objects.get_or_insert_default().insert(id, held);
        self.changed(state, section);
    }

    /// Forgets an object that was deleted.
    pub fn remove(&self, section: &Section, id: &Id) {
        let mut state = self.lock();
        let objects = state.sections.entry(section.clone()).or_default();
        if objects.get_or_insert_default().remove(id).is_some() {
            self.changed(state, section);
        }
    }

    /// Whether every watch has listed.
    pub fn is_complete(&self) -> bool {
        self.lock().sections.values().all(Option::is_some)
    }

    /// Whether Secrets that are named are still being fetched.
    pub fn is_settled(&self) -> bool {
        self.lock().secrets_pending.is_empty()
    }

    /// Returns when the Secrets of `section` are to be listed again, once for each time.
    pub async fn secrets_wanted(&self, section: &Section) {
        loop {
            let wanted = self.secrets_wanted.notified();
            if self.lock().begins(section) {
                return;
            }
            wanted.await;
        }
    }

    /// Returns when all Listeners have been listed, and so it is known which Secrets are wanted.
    pub async fn listeners_listed(&self) {
        loop {
            let listed = self.listeners_listed.notified();
            if self.lock().listed(Kind::Listener) {
                return;
            }
            listed.await;
        }
    }

    /// Returns when a Listener or an Ingress, or the status of one, has changed.
    pub async fn seen_changed(&self) {
        self.seen_changed.notified().await;
    }

    /// A path and a text for every object, in the order of the paths of a kind.
    pub fn files(&self) -> Vec<(String, Arc<str>)> {
        let state = self.lock();
        let sections = state.sections.iter();
        sections
            .flat_map(|(section, objects)| {
                let objects = objects.iter().flatten();
                objects.map(|(id, held)| (path(section.kind, id), Arc::clone(&held.text)))
            })
            .collect()
    }

    /// What the status of an object of `kind` says.
    pub fn seen(&self, kind: Kind) -> BTreeMap<Id, Arc<Seen>> {
        let state = self.lock();
        let sections = state.sections.iter();
        sections
            .filter(|(section, _)| section.kind == kind)
            .flat_map(|(_, objects)| objects.iter().flatten())
            .filter_map(|(id, held)| Some((id.clone(), held.seen.clone()?)))
            .collect()
    }

    /// How many objects there are of each kind.
    pub fn counts(&self) -> BTreeMap<Kind, usize> {
        let state = self.lock();
        let mut counts = BTreeMap::new();
        for (section, objects) in &state.sections {
            *counts.entry(section.kind).or_default() += objects.as_ref().map_or(0, Objects::len);
        }
        counts
    }

    /// When the API server last said something.
    pub fn last_event(&self) -> Option<SystemTime> {
        self.lock().last_event
    }

    fn changed(&self, mut state: MutexGuard<'_, State>, section: &Section) {
        state.last_event = Some(SystemTime::now());
        if section.kind == Kind::Listener {
            if state.want_secrets() {
                self.secrets_wanted.notify_waiters();
            }
            if state.listed(Kind::Listener) {
                self.listeners_listed.notify_waiters();
            }
        }
        drop(state);
        if matches!(section.kind, Kind::Listener | Kind::Ingress) {
            self.seen_changed.notify_one();
        }
        self.dirty.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn listed(&self, kind: Kind) -> bool {
        let mut sections = self.sections.iter();
        sections.all(|(section, objects)| section.kind != kind || objects.is_some())
    }

    /// Whether the Secrets of a section are to be listed again, which begins now.
    fn begins(&mut self, section: &Section) -> bool {
        let pending = self.secrets_pending.get_mut(section);
        pending.is_some_and(|has_begun| !std::mem::replace(has_begun, true))
    }

    /// Looks which Secrets are named now. True if some must be fetched.
    fn want_secrets(&mut self) -> bool {
        let listeners = self.sections.iter();
        let listeners = listeners.filter(|(section, _)| section.kind == Kind::Listener);
        let wanted: BTreeSet<Id> = listeners
            .flat_map(|(_, objects)| objects.iter().flatten())
            .flat_map(|(_, held)| held.secrets.iter().cloned())
            .collect();
        let new: Vec<_> = wanted.difference(&self.wanted).cloned().collect();
        self.wanted = wanted;
        let mut must_fetch = false;
        for (section, objects) in &mut self.sections {
            // A section that has not been listed yet will have it, as one that is being listed again.
            if let (Kind::Secret, Some(objects)) = (section.kind, objects) {
                objects.retain(|id, _| self.wanted.contains(id));
                if new.iter().any(|id| section.has(id)) {
                    self.secrets_pending.entry(section.clone()).or_insert(false);
                    must_fetch = true;
                }
            }
        }
        must_fetch
    }
}

/// As a file would be named.
fn path(kind: Kind, id: &Id) -> String {
    let kind = kind.as_str().to_lowercase();
    match id.namespace.as_str() {
        "" => format!("{kind}/{}.json", id.name),
        namespace => format!("{kind}/{namespace}/{}.json", id.name),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use serde_json::json;

    use super::*;

    fn section(kind: Kind, namespace: &str) -> Section {
        Section {
            kind,
            namespace: Some(namespace.into()),
        }
    }

    fn put(mirror: &Mirror, kind: Kind, namespace: &str, secrets: &[&str]) {
        let certificates: Vec<_> = secrets
            .iter()
            .map(|name| json!({"secret": {"name": name}}))
            .collect();
        let object = json!({
            "metadata": {"name": "a", "namespace": namespace},
            "spec": {"certificates": certificates},
        });
        let object: Object = serde_json::from_value(object).unwrap();
        let held = Held::of(kind, &object);
        mirror.put(&section(kind, namespace), object.id(), held);
    }

    #[test]
    fn secret_that_is_named_late_is_listed_again_where_it_is() {
        let names = ["north", "south", "west"];
        let kinds = [Kind::Listener, Kind::Secret];
        let sections = kinds.map(|kind| names.map(|name| section(kind, name)));
        let mirror = Mirror::new(sections.into_iter().flatten(), Arc::default());
        let secrets = names.map(|name| section(Kind::Secret, name));
        let is_wanted = |nth: usize| mirror.secrets_wanted(&secrets[nth]).now_or_never();
        for kind in kinds {
            for name in &names[..2] {
                mirror.replace(&section(kind, name), BTreeMap::new());
            }
        }
        assert!(mirror.is_settled());

        for name in names {
            put(&mirror, Kind::Listener, name, &["a"]);
        }
        assert!(is_wanted(2).is_none(), "was not listed before");
        for nth in [0, 1] {
            assert!(is_wanted(nth).is_some());
            assert!(is_wanted(nth).is_none(), "once");
        }
        mirror.replace(&secrets[0], BTreeMap::new());
        assert!(!mirror.is_settled());
        put(&mirror, Kind::Listener, "south", &["a", "b"]);
        assert!(is_wanted(1).is_none(), "is being listed");
        mirror.replace(&secrets[1], BTreeMap::new());
        assert!(mirror.is_settled());
        put(&mirror, Kind::Listener, "south", &["a", "b", "c"]);
        assert!(is_wanted(0).is_none() && is_wanted(1).is_some());
    }
}
