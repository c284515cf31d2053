//! What the API server of one cluster said last: a text for every object that is read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use super::cache::Files;
use super::kind::Kind;
use super::object::{Id, Seen};
use super::section::{Contents, Held, Objects, Section, path};

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
    sections: BTreeMap<Section, Contents>,
    /// What the cache or a predecessor said at the start, until nothing is awaited.
    cached: Option<Files>,
    /// Secrets that Listeners name.
    wanted: BTreeSet<Id>,
    /// Sections of Secrets that must be listed again, since one is wanted that was passed over, and
    /// whether that has begun.
    secrets_pending: BTreeMap<Section, bool>,
    last_event: Option<SystemTime>,
}

impl Mirror {
    /// All of `sections` are awaited.
    pub fn new(sections: impl IntoIterator<Item = Section>, dirty: Arc<Notify>) -> Self {
        let sections = sections
            .into_iter()
            .map(|section| (section, Contents::default()));
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

    /// Takes what was known before the start, for sections that are withheld.
    pub fn remember(&self, cached: Files) {
        self.lock().cached = Some(cached);
    }

    /// What was known before the start, until everything is known that can be.
    pub fn cached(&self) -> Option<Files> {
        self.lock().cached.clone()
    }

    /// No longer waits for a section that is withheld: what was known of it is in force. Gives how
    /// many objects that are; `None` if it was not waited for.
    pub fn withhold(&self, section: &Section) -> Option<usize> {
        let mut state = self.lock();
        if state.sections.get(section)?.is_answered {
            return None;
        }
        let mut contents = Contents::withheld(section, state.cached.as_ref());
        let known = contents.objects.as_mut().map_or(0, |objects| {
            objects.retain(|id, _| section.kind != Kind::Secret || state.wanted.contains(id));
            objects.len()
        });
        state.sections.insert(section.clone(), contents);
        self.changed(state, section);
        Some(known)
    }

    /// Takes what a list said: everything else of the section is gone.
    pub fn replace(&self, section: &Section, mut objects: Objects) {
        let mut state = self.lock();
        if section.kind == Kind::Secret {
            objects.retain(|id, _| state.wanted.contains(id));
            state.secrets_pending.remove(section);
        }
        let contents = Contents::listed(objects);
        state.sections.insert(section.clone(), contents);
        self.changed(state, section);
    }

    /// Takes an object that is new or has changed.
    pub fn put(&self, section: &Section, id: Id, held: Held) {
        let mut state = self.lock();
        if section.kind == Kind::Secret && !state.wanted.contains(&id) {
            return;
        }
        let contents = state.sections.entry(section.clone()).or_default();
        contents.objects.get_or_insert_default().insert(id, held);
        self.changed(state, section);
    }

    /// Forgets an object that was deleted.
    pub fn remove(&self, section: &Section, id: &Id) {
        let mut state = self.lock();
        let contents = state.sections.entry(section.clone()).or_default();
        let objects = contents.objects.as_mut();
        if objects.is_some_and(|objects| objects.remove(id).is_some()) {
            self.changed(state, section);
        }
    }

    /// Whether everything is known that can be: no section is awaited. Where nothing is known of any
    /// Listener there is nothing to serve, and it is not.
    pub fn is_complete(&self) -> bool {
        self.lock().is_complete()
    }

    /// Whether no Secrets that are named are still being fetched, of sections that are worth waiting
    /// for.
    pub fn is_settled(&self, is_worth: impl Fn(&Section) -> bool) -> bool {
        !self.lock().secrets_pending.keys().any(is_worth)
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

    /// Returns when all Listeners have been listed or are withheld, and so it is known which Secrets are
    /// wanted.
    pub async fn listeners_listed(&self) {
        loop {
            let listed = self.listeners_listed.notified();
            if self.lock().is_answered(Kind::Listener) {
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
            .flat_map(|(section, contents)| {
                let objects = contents.objects.iter().flatten();
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
            .flat_map(|(_, contents)| contents.objects.iter().flatten())
            .filter_map(|(id, held)| Some((id.clone(), held.seen.clone()?)))
            .collect()
    }

    /// How many objects there are of each kind.
    pub fn counts(&self) -> BTreeMap<Kind, usize> {
        let state = self.lock();
        let mut counts = BTreeMap::new();
        for (section, contents) in &state.sections {
            *counts.entry(section.kind).or_default() +=
                contents.objects.as_ref().map_or(0, Objects::len);
        }
        counts
    }

    /// When the API server last said something.
    pub fn last_event(&self) -> Option<SystemTime> {
        self.lock().last_event
    }

    fn changed(&self, mut state: MutexGuard<'_, State>, section: &Section) {
        state.last_event = Some(SystemTime::now());
        if state.is_complete() {
            state.cached = None;
        }
        if section.kind == Kind::Listener {
            if state.want_secrets() {
                self.secrets_wanted.notify_waiters();
            }
            if state.is_answered(Kind::Listener) {
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
    fn is_answered(&self, kind: Kind) -> bool {
        let mut sections = self.sections.iter();
        sections.all(|(section, contents)| section.kind != kind || contents.is_answered)
    }

    fn is_complete(&self) -> bool {
        let mut listeners = self.sections.iter();
        self.sections.values().all(|contents| contents.is_answered)
            && listeners.any(|(section, contents)| {
                section.kind == Kind::Listener && contents.objects.is_some()
            })
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
            .flat_map(|(_, contents)| contents.objects.iter().flatten())
            .flat_map(|(_, held)| held.secrets.iter().cloned())
            .collect();
        let new: Vec<_> = wanted.difference(&self.wanted).cloned().collect();
        self.wanted = wanted;
        let mut must_fetch = false;
        for (section, contents) in &mut self.sections {
            // A section that has not been listed yet will have it, as one that is being listed again.
            if let (Kind::Secret, Some(objects)) = (section.kind, &mut contents.objects) {
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use serde_json::json;

    use super::super::object::Object;
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
        assert!(mirror.is_settled(|_| true));

        for name in names {
            put(&mirror, Kind::Listener, name, &["a"]);
        }
        assert!(is_wanted(2).is_none(), "was not listed before");
        for nth in [0, 1] {
            assert!(is_wanted(nth).is_some());
            assert!(is_wanted(nth).is_none(), "once");
        }
        mirror.replace(&secrets[0], BTreeMap::new());
        assert!(!mirror.is_settled(|_| true));
        put(&mirror, Kind::Listener, "south", &["a", "b"]);
        assert!(is_wanted(1).is_none(), "is being listed");
        mirror.replace(&secrets[1], BTreeMap::new());
        assert!(mirror.is_settled(|_| true));
        put(&mirror, Kind::Listener, "south", &["a", "b", "c"]);
        assert!(is_wanted(0).is_none() && is_wanted(1).is_some());
    }

    #[test]
    fn section_that_is_withheld_is_as_it_was_known_and_keeps_nothing_else_waiting() {
        let names = ["north", "south"];
        let kinds = [Kind::Listener, Kind::Secret];
        let sections = kinds.map(|kind| names.map(|name| section(kind, name)));
        let old = Mirror::new(sections.iter().flatten().cloned(), Arc::default());
        for section in sections.iter().flatten() {
            old.replace(section, BTreeMap::new());
        }
        for name in names {
            put(&old, Kind::Listener, name, &["a"]);
            put(&old, Kind::Secret, name, &[]);
        }
        let paths = |mirror: &Mirror| -> Vec<_> {
            let files = mirror.files().into_iter();
            files.map(|(path, _)| path).collect()
        };
        assert_eq!(paths(&old).len(), 4);

        let mirror = Mirror::new(sections.iter().flatten().cloned(), Arc::default());
        mirror.remember(old.files());
        let [listeners, secrets] = &sections;
        mirror.replace(&listeners[0], BTreeMap::new());
        assert!(mirror.listeners_listed().now_or_never().is_none());
        assert_eq!(mirror.withhold(&listeners[1]), Some(1));
        assert_eq!(mirror.withhold(&listeners[1]), None, "once");
        assert!(mirror.listeners_listed().now_or_never().is_some());
        // The Secret that is still named is wanted, in whatever way it comes.
        mirror.replace(&secrets[0], BTreeMap::new());
        assert!(!mirror.is_complete() && mirror.cached().is_some());
        assert_eq!(mirror.withhold(&secrets[1]), Some(1));
        assert!(mirror.is_complete() && mirror.cached().is_none());
        assert_eq!(
            paths(&mirror),
            ["listener/south/a.json", "secret/south/a.json"]
        );
        assert!(
            mirror.seen(Kind::Listener).is_empty(),
            "nobody knows its status"
        );

        // What was listed is not taken back when it is withheld later.
        put(&mirror, Kind::Listener, "north", &[]);
        assert_eq!(mirror.withhold(&listeners[0]), None);
        assert_eq!(paths(&mirror).len(), 3);
        mirror.replace(&listeners[1], BTreeMap::new());
        assert_eq!(paths(&mirror), ["listener/north/a.json"]);
    }

    #[test]
    fn mirror_that_knows_of_no_listener_is_never_complete() {
        let sections = [Kind::Listener, Kind::Ingress].map(|kind| section(kind, "shop"));
        let new = || Mirror::new(sections.clone(), Arc::default());
        let mirror = new();
        mirror.withhold(&sections[1]);
        mirror.withhold(&sections[0]);
        assert!(!mirror.is_complete());
        mirror.replace(&sections[0], BTreeMap::new());
        assert!(mirror.is_complete());
        let mirror = new();
        mirror.remember(Files::new());
        mirror.withhold(&sections[0]);
        mirror.replace(&sections[1], BTreeMap::new());
        assert!(mirror.is_complete(), "that there is none is known too");
    }
}
