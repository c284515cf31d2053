//! One file's objects, as far as its text can be understood.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::RandomState;
use serde_json::Value;

use super::identify::{Identity, identify};
use super::locate::{Locator, Origin, place};
use super::object::{Key, Object, read};
use super::text::{Document, Unreadable, documents};
use super::{SourceFile, UnreadableFile};
use crate::problem::{ObjectRef, Problem, Severity};

/// What one file says.
#[derive(Debug, Default)]
pub(super) struct FileState {
    /// A hash of the text.
    pub(super) hash: u64,
    pub(super) entries: Vec<Entry>,
    /// Problems that belong to no entry.
    pub(super) problems: Vec<Problem>,
    /// Whether some of the text could not be understood, so that objects may be missing.
    pub(super) incomplete: bool,
    /// Objects this file gave, also in versions before the text became incomplete.
    pub(super) given: HashSet<Key>,
}

/// An object of a file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) origin: Arc<Origin>,
    /// A hash of what it says, to tell copies from contradictions.
    pub(super) hash: u64,
    /// `None` if it is wrong.
    pub(super) object: Option<Object>,
    pub(super) problems: Vec<Problem>,
}

impl FileState {
    /// Parses a file. `old` is what it said before.
    pub(super) fn parse(
        file: &SourceFile,
        hash: u64,
        old: Option<&Self>,
        hasher: &RandomState,
    ) -> Self {
        let mut reader = Reader {
            file: ObjectRef::file(&file.path).within(&file.cluster),
            hasher,
            state: Self {
                hash,
                ..Self::default()
            },
            unnamed: Vec::new(),
        };
        for document in documents(&file.path, &file.text) {
            match document {
                Ok(document) => reader.document(document),
                Err(unreadable) => reader.unreadable(unreadable),
            }
        }
        let mut state = reader.finish(file);
        state.given = state
            .entries
            .iter()
            .map(|entry| entry.key.clone())
            .collect();
        if state.incomplete {
            state
                .given
                .extend(old.into_iter().flat_map(|old| old.given.iter().cloned()));
        }
        state
    }

    /// A file whose text cannot be had: all it gave before may still be in it.
    pub(super) fn unreadable(file: &UnreadableFile, old: Option<Self>) -> Self {
        let object = ObjectRef::file(&file.path).within(&file.cluster);
        Self {
            problems: vec![Problem::error(&object, "", &file.why)],
            incomplete: true,
            given: old.map(|old| old.given).unwrap_or_default(),
            ..Self::default()
        }
    }
}

struct Reader<'a> {
    file: ObjectRef,
    hasher: &'a RandomState,
    state: FileState,
    /// Problems of what is no object.
    unnamed: Vec<(Problem, Origin)>,
}

impl Reader<'_> {
    fn document(&mut self, document: Document) {
        let origin = Origin {
            cluster: self.file.cluster.clone(),
            file: self.file.name.clone(),
            start: document.start,
            line: document.line,
            item: String::new(),
        };
        self.take(document.value, origin, None);
    }

    fn unreadable(&mut self, unreadable: Unreadable) {
        self.state.incomplete = true;
        let what = format!(
            "line {} cannot be read: {}",
            unreadable.line, unreadable.what
        );
        let mut problem = Problem::error(&self.file, "", what).hint(unreadable.hint);
        problem.at = Some(place(&self.file.name, unreadable.line));
        self.state.problems.push(problem);
    }

    fn take(&mut self, mut value: Value, origin: Origin, inherited: Option<&(String, String)>) {
        match identify(&mut value, &self.file, inherited) {
            Identity::Known(key) => {
                let hash = self.hasher.hash_one(value.to_string());
                let (object, problems) = read(&key, value);
                self.state.entries.push(Entry {
                    key,
                    origin: Arc::new(origin),
                    hash,
                    object,
                    problems,
                });
            }
            Identity::List(items, inherited) => {
                for (index, item) in items.into_iter().enumerate() {
                    let item_origin = Origin {
                        item: origin.field(&format!("items[{index}]")),
                        ..origin.clone()
                    };
                    // A list in a list nests no deeper than a value can.
                    self.take(item, item_origin, inherited.as_ref());
                }
            }
            Identity::Other(problem) => {
                self.state.incomplete |= problem.severity == Severity::Error;
                self.unnamed.push((problem, origin));
            }
        }
    }

    /// Gives every problem its place, now that the text is at hand.
    fn finish(mut self, file: &SourceFile) -> FileState {
        let mut locator = Locator::new([file]);
        for (mut problem, origin) in self.unnamed {
            locator.attach(&mut problem, &origin);
            if problem.object == self.file {
                problem.path = origin.field(&problem.path);
            }
            self.state.problems.push(problem);
        }
        for entry in &mut self.state.entries {
            for problem in &mut entry.problems {
                locator.attach(problem, &entry.origin);
            }
        }
        self.state
    }
}
