//! The objects in force: what the files say now, and the last good version of what turned bad.
//!
//! A file is parsed again only when its text changed. The store keeps hashes, never texts: a text
//! may hold a private key.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::Snapshot;
use super::file::{Entry, FileState};
use super::locate::Origin;
use super::object::{Key, Object};
use crate::model::Cluster;
use crate::problem::{ObjectRef, Problem};

/// Every file's objects, and those in force.
#[derive(Debug, Default)]
pub(super) struct Store {
    files: BTreeMap<FileKey, FileState>,
    in_force: BTreeMap<Key, InForce>,
    hasher: RandomState,
}

/// A file's cluster and path.
type FileKey = (Cluster, String);

/// What is in force of an object that is written somewhere.
#[derive(Debug)]
pub(super) struct InForce {
    /// `None` if it never was right.
    pub(super) object: Option<Object>,
    /// `None` if it is in a part of a file that cannot be read now.
    pub(super) origin: Option<Arc<Origin>>,
}

impl Store {
    /// Takes a snapshot in. Gives what was wrong before any object was understood.
    pub(super) fn update(&mut self, snapshot: &Snapshot) -> Vec<Problem> {
        let mut before = std::mem::take(&mut self.files);
        for file in &snapshot.files {
            let hash = self.hasher.hash_one(&*file.text);
            let key = (file.cluster.clone(), file.path.clone());
            let state = match before.remove(&key) {
                Some(state) if state.hash == hash => state,
                old => FileState::parse(file, hash, old.as_ref(), &self.hasher),
            };
            self.files.insert(key, state);
        }
        for unreadable in &snapshot.unreadable {
            let key = (unreadable.cluster.clone(), unreadable.path.clone());
            let state = FileState::unreadable(unreadable, before.remove(&key));
            self.files.insert(key, state);
        }
        let merge = Merge {
            last: &self.in_force,
            merged: BTreeMap::new(),
            problems: Vec::new(),
        };
        let (merged, problems) = merge.files(&self.files);
        self.in_force = merged;
        problems
    }

    /// The objects in force, in order of kind, namespace and name.
    pub(super) fn in_force(&self) -> &BTreeMap<Key, InForce> {
        &self.in_force
    }
}

/// Files to objects, each once.
struct Merge<'a> {
    /// What was in force until now.
    last: &'a BTreeMap<Key, InForce>,
    merged: BTreeMap<Key, InForce>,
    problems: Vec<Problem>,
}

impl Merge<'_> {
    /// Of every object, the first that is right in the order of the files' paths.
    fn files(
        mut self,
        files: &BTreeMap<FileKey, FileState>,
    ) -> (BTreeMap<Key, InForce>, Vec<Problem>) {
        let mut first: HashMap<&Key, &Entry, RandomState> = HashMap::default();
        for entry in files.values().flat_map(|file| &file.entries) {
            let chosen = first.entry(&entry.key).or_insert(entry);
            if chosen.object.is_none() && entry.object.is_some() {
                *chosen = entry;
            }
        }
        for file in files.values() {
            self.problems.extend(file.problems.iter().cloned());
            for entry in &file.entries {
                match first[&entry.key] {
                    chosen if std::ptr::eq(chosen, entry) => self.put(entry),
                    _ if entry.object.is_none() => {
                        self.problems.extend(entry.problems.iter().cloned());
                    }
                    chosen => self.problems.push(duplicate(entry, chosen)),
                }
            }
        }
        for (key, file) in files.iter().filter(|(_, file)| file.incomplete) {
            self.keep_missing(key, file);
        }
        (self.merged, self.problems)
    }

    fn put(&mut self, entry: &Entry) {
        let object = entry
            .object
            .as_ref()
            .or_else(|| self.last_good(&entry.key))
            .cloned();
        let kept = entry.object.is_none() && object.is_some();
        self.problems
            .extend(entry.problems.iter().cloned().map(|mut problem| {
                if kept {
                    problem.mark_kept();
                }
                problem
            }));
        let origin = Some(Arc::clone(&entry.origin));
        self.merged
            .insert(entry.key.clone(), InForce { object, origin });
    }

    /// An object that is missing from a file that cannot wholly be read may be in the part that
    /// cannot, so it stays.
    fn keep_missing(&mut self, (cluster, path): &FileKey, file: &FileState) {
        let mut missing: Vec<_> = file
            .given
            .iter()
            .filter(|key| !self.merged.contains_key(key))
            .collect();
        missing.sort();
        let mut names = Vec::new();
        for key in missing {
            if let Some(object) = self.last_good(key).cloned() {
                self.merged.insert(
                    key.clone(),
                    InForce {
                        object: Some(object),
                        origin: None,
                    },
                );
                names.push(key.to_string());
            }
        }
        if !names.is_empty() {
            let what = format!(
                "until it can be read, these stay in force: {}",
                names.join(", ")
            );
            let object = ObjectRef::file(path).within(cluster);
            self.problems.push(Problem::note(&object, "", what));
        }
    }

    fn last_good(&self, key: &Key) -> Option<&Object> {
        self.last.get(key)?.object.as_ref()
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
