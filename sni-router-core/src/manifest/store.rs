//! The objects in force: what the files say now, and the last good version of what turned bad.
//!
//! A file is parsed again only when its text changed. The store keeps hashes, never texts: a text
//! may hold a private key.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use super::identify::{Identity, identify};
use super::locate::{Locator, Origin, place};
use super::object::{Key, Object, read};
use super::text::documents;
use super::{Snapshot, SourceFile};
use crate::problem::{ObjectRef, Problem, Severity};

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

#[derive(Debug, Default)]
struct FileState {
    hash: u64,
    entries: Vec<Entry>,
    /// Problems that belong to no entry.
    problems: Vec<Problem>,
    /// Whether some of the text could not be understood, so that objects may be missing.
    incomplete: bool,
    /// Objects this file gave, also in versions before the text became incomplete.
    given: HashSet<Key>,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    origin: Origin,
    /// A hash of what it says, to tell copies from contradictions.
    hash: u64,
    /// `None` if it is bad.
    object: Option<Object>,
    problems: Vec<Problem>,
}

impl Store {
    /// Takes a snapshot in, and gives the objects that are in force after it.
    pub(super) fn update(&mut self, snapshot: &Snapshot) -> Objects {
        let mut before = std::mem::take(&mut self.files);
        for file in &snapshot.files {
            let hash = self.hasher.hash_one(&file.text);
            let state = match before.remove(&file.path) {
                Some(state) if state.hash == hash => state,
                old => self.parse(file, hash, old),
            };
            self.files.insert(file.path.clone(), state);
        }
        for unreadable in &snapshot.unreadable {
            let mut state = before.remove(&unreadable.path).unwrap_or_default();
            let file = ObjectRef::file(&unreadable.path);
            state.hash = 0;
            state.entries.clear();
            state.problems = vec![Problem::error(&file, "", unreadable.why.clone())];
            state.incomplete = true;
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

    fn parse(&self, file: &SourceFile, hash: u64, old: Option<FileState>) -> FileState {
        let mut state = FileState {
            hash,
            ..FileState::default()
        };
        let blame = ObjectRef::file(&file.path);
        for document in documents(&file.path, &file.text) {
            match document {
                Ok(document) => {
                    let origin = Origin {
                        file: file.path.clone(),
                        start: document.start,
                        line: document.line,
                        item: String::new(),
                    };
                    self.take(document.value, &origin, &blame, None, &mut state);
                }
                Err(unreadable) => {
                    state.incomplete = true;
                    let what = format!(
                        "line {} cannot be read: {}",
                        unreadable.line, unreadable.what
                    );
                    let mut problem = Problem::error(&blame, "", what);
                    problem.at = Some(place(&file.path, unreadable.line));
                    state.problems.push(problem);
                }
            }
        }
        let mut locator = Locator::new([file]);
        for entry in &mut state.entries {
            for problem in &mut entry.problems {
                locator.attach(problem, &entry.origin);
            }
        }
        state.given = state
            .entries
            .iter()
            .map(|entry| entry.key.clone())
            .collect();
        if state.incomplete {
            state
                .given
                .extend(old.into_iter().flat_map(|old| old.given));
        }
        state
    }

    fn take(
        &self,
        mut value: serde_json::Value,
        origin: &Origin,
        blame: &ObjectRef,
        inherited: Option<&(String, String)>,
        state: &mut FileState,
    ) {
        match identify(&mut value, blame, &origin.item, inherited) {
            Identity::Known(key) => {
                let hash = self.hasher.hash_one(value.to_string());
                let (object, problems) = read(&key, value);
                state.entries.push(Entry {
                    key,
                    origin: origin.clone(),
                    hash,
                    object,
                    problems,
                });
            }
            Identity::List(items, inherited) => {
                for (index, item) in items.into_iter().enumerate() {
                    let item_origin = Origin {
                        item: format!("{}items[{index}]", origin.item_prefix()),
                        ..origin.clone()
                    };
                    // A list in a list is no more than a list; the depth of a value is limited.
                    self.take(item, &item_origin, blame, inherited.as_ref(), state);
                }
            }
            Identity::Other(mut problem) => {
                state.incomplete |= problem.severity == Severity::Error;
                problem.at = Some(place(&origin.file, origin.line));
                state.problems.push(problem);
            }
        }
    }

    /// One object a key: the first in the order of the files' paths.
    fn merge(&self) -> Objects {
        let mut merged = Objects::default();
        let mut seen: HashMap<&Key, &Entry> = HashMap::new();
        for file in self.files.values() {
            merged.problems.extend(file.problems.iter().cloned());
            for entry in &file.entries {
                if let Some(first) = seen.get(&entry.key) {
                    merged.problems.push(duplicate(entry, first));
                    continue;
                }
                seen.insert(&entry.key, entry);
                self.put(entry, &mut merged);
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
    let at = place(&first.origin.file, first.origin.line);
    let mut problem = match entry.hash == first.hash {
        true => Problem::note(&object, "", format!("is a copy of the one at {at}")),
        false => Problem::error(
            &object,
            "",
            format!("is another version of the one at {at}, which is used"),
        )
        .hint("the first in the order of the files' names is used; remove one"),
    };
    problem.at = Some(place(&entry.origin.file, entry.origin.line));
    problem
}
