//! The objects in force: what the files say now, and the last good version of what turned bad.
//!
//! A file is parsed again only when its text changed. The store keeps hashes, never texts: a text
//! may hold a private key.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};

use super::Snapshot;
use super::file::{Entry, FileState};
use super::locate::Origin;
use super::object::{Key, Object};
use crate::problem::{ObjectRef, Problem};

/// Every file's objects, and those in force.
#[derive(Debug, Default)]
pub(super) struct Store {
    files: BTreeMap<String, FileState>,
    good: HashMap<Key, Object>,
    hasher: RandomState,
}

/// The objects of a snapshot, each once.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// In order of kind, namespace and name.
    pub(super) by_key: BTreeMap<Key, Object>,
    /// Where each is written.
    pub(super) origins: HashMap<Key, Origin>,
    /// What was wrong before any object was understood, with places.
    pub(super) problems: Vec<Problem>,
}

impl Store {
    /// Takes a snapshot in, and gives the objects that are in force after it.
    pub(super) fn update(&mut self, snapshot: &Snapshot) -> Objects {
        let mut before = std::mem::take(&mut self.files);
        for file in &snapshot.files {
            let hash = self.hasher.hash_one(&file.text);
            let state = match before.remove(&file.path) {
                Some(state) if state.hash == hash => state,
                old => FileState::parse(file, hash, old.as_ref(), &self.hasher),
            };
            self.files.insert(file.path.clone(), state);
        }
        for unreadable in &snapshot.unreadable {
            let old = before.remove(&unreadable.path);
            let state = FileState::unreadable(&unreadable.path, &unreadable.why, old);
            self.files.insert(unreadable.path.clone(), state);
        }
        let objects = self.merge();
        self.good = objects
            .by_key
            .iter()
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect();
        objects
    }

    /// One object a key: the first that is right, in the order of the files' paths.
    fn merge(&self) -> Objects {
        let mut first: HashMap<&Key, &Entry> = HashMap::new();
        for entry in self.files.values().flat_map(|file| &file.entries) {
            let chosen = first.entry(&entry.key).or_insert(entry);
            if chosen.object.is_none() && entry.object.is_some() {
                *chosen = entry;
            }
        }
        let mut merged = Objects::default();
        for file in self.files.values() {
            merged.problems.extend(file.problems.iter().cloned());
            for entry in &file.entries {
                match first[&entry.key] {
                    chosen if std::ptr::eq(chosen, entry) => self.put(entry, &mut merged),
                    _ if entry.object.is_none() => {
                        merged.problems.extend(entry.problems.iter().cloned());
                    }
                    chosen => merged.problems.push(duplicate(entry, chosen)),
                }
            }
        }
        for (path, file) in self.files.iter().filter(|(_, file)| file.incomplete) {
            self.keep_missing(path, file, &mut merged);
        }
        merged
    }

    fn put(&self, entry: &Entry, merged: &mut Objects) {
        let object = entry.object.as_ref().or_else(|| self.good.get(&entry.key));
        let kept = entry.object.is_none() && object.is_some();
        merged
            .problems
            .extend(entry.problems.iter().cloned().map(|mut problem| {
                if kept {
                    problem.mark_kept();
                }
                problem
            }));
        if let Some(object) = object {
            merged.by_key.insert(entry.key.clone(), object.clone());
        }
        merged
            .origins
            .insert(entry.key.clone(), entry.origin.clone());
    }

    /// An object that is missing from a file that cannot wholly be read may be in the part that
    /// cannot, so it stays.
    fn keep_missing(&self, path: &str, file: &FileState, merged: &mut Objects) {
        let mut kept: Vec<&Key> = file
            .given
            .iter()
            .filter(|key| !merged.origins.contains_key(key))
            .collect();
        kept.sort();
        let mut names = Vec::new();
        for key in kept {
            if let Some(object) = self.good.get(key) {
                merged.by_key.insert(key.clone(), object.clone());
                names.push(key.to_string());
            }
        }
        if !names.is_empty() {
            let what = format!(
                "until it can be read, these stay in force: {}",
                names.join(", ")
            );
            merged
                .problems
                .push(Problem::note(&ObjectRef::file(path), "", what));
        }
    }
}

fn duplicate(entry: &Entry, first: &Entry) -> Problem {
    let object = entry.key.reference();
    let at = first.origin.place();
    let mut problem = match entry.hash == first.hash {
        true => Problem::note(&object, "", format!("is a copy of the one at {at}")),
        false => Problem::error(
            &object,
            "",
            format!("is another version of the one at {at}, which is used"),
        )
        .hint("the first in the order of the files' names is used; remove one"),
    };
    problem.at = Some(entry.origin.place());
    problem
}
