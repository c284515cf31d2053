//! Collects the problems of one object.

use crate::problem::{ObjectRef, Problem, Reason, Severity};

/// The problems of one object while it is read.
#[derive(Debug)]
pub(super) struct Report {
    object: ObjectRef,
    problems: Vec<Problem>,
}

impl Report {
    pub(super) fn new(object: ObjectRef) -> Self {
        Self {
            object,
            problems: Vec::new(),
        }
    }

    pub(super) fn error(&mut self, path: impl Into<String>, what: impl Into<String>, hint: &str) {
        self.problems
            .push(Problem::error(&self.object, path, what).hint(hint));
    }

    pub(super) fn error_because(
        &mut self,
        reason: Reason,
        path: impl Into<String>,
        what: impl Into<String>,
        hint: &str,
    ) {
        let problem = Problem::error(&self.object, path, what).reason(reason);
        self.problems.push(problem.hint(hint));
    }

    pub(super) fn warning(&mut self, path: impl Into<String>, what: impl Into<String>, hint: &str) {
        self.problems
            .push(Problem::warning(&self.object, path, what).hint(hint));
    }

    pub(super) fn note(&mut self, path: impl Into<String>, what: impl Into<String>, hint: &str) {
        self.problems
            .push(Problem::note(&self.object, path, what).hint(hint));
    }

    pub(super) fn has_errors(&self) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.severity == Severity::Error)
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Says in every error that the object's last good version stays in force.
    pub(super) fn mark_kept(&mut self) {
        self.problems.iter_mut().for_each(Problem::mark_kept);
    }
}

impl Problem {
    /// Says in an error that the object's last good version stays in force.
    pub(super) fn mark_kept(&mut self) {
        if self.severity == Severity::Error {
            self.what += "; its last good version stays in force";
        }
    }
}
