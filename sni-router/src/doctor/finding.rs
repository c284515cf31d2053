//! What a check finds: how bad it is, what it costs, and how to mend it.

use std::fmt;

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Could not be looked at.
    Unknown,
    /// Worth knowing; nothing is lost.
    Note,
    /// It works, but worse than it could, or not in every case.
    Warning,
    /// Something that was asked for will not work.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One thing that a check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// What it costs; `None` where it costs nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub costs: Option<String>,
    /// A command for a root shell that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// What else to do, or to know before doing it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

/// What a check comes to. An error is a finding that keeps it from looking further.
pub type Outcome = Result<Vec<Finding>, Finding>;

impl Finding {
    /// A finding of this level.
    pub fn at(level: Level, what: impl Into<String>) -> Self {
        Self {
            level,
            what: what.into(),
            costs: None,
            command: None,
            mend: None,
        }
    }

    /// [`Level::Ok`].
    pub fn ok(what: impl Into<String>) -> Self {
        Self::at(Level::Ok, what)
    }

    /// [`Level::Unknown`].
    pub fn unknown(what: impl Into<String>) -> Self {
        Self::at(Level::Unknown, what)
    }

    /// [`Level::Note`].
    pub fn note(what: impl Into<String>) -> Self {
        Self::at(Level::Note, what)
    }

    /// [`Level::Warning`].
    pub fn warning(what: impl Into<String>) -> Self {
        Self::at(Level::Warning, what)
    }

    /// [`Level::Error`].
    pub fn error(what: impl Into<String>) -> Self {
        Self::at(Level::Error, what)
    }

    /// The same with what it costs.
    pub fn costs(mut self, costs: impl Into<String>) -> Self {
        self.costs = Some(costs.into());
        self
    }

    /// The same with a command that mends it.
    pub fn command(mut self, command: impl Into<String>) -> Self {
        self.command = Some(command.into());
        self
    }

    /// The same with words on how to mend it.
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }
}

/// Names for people: the first few, and how many there are besides.
pub(super) fn list<T: fmt::Display>(all: impl IntoIterator<Item = T>) -> String {
    let all: Vec<_> = all.into_iter().map(|it| it.to_string()).collect();
    let shown = all[..all.len().min(SHOWN)].join(", ");
    match all.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

const SHOWN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_ends_where_nobody_would_read_on() {
        assert_eq!(list(["a", "b"]), "a, b");
        assert_eq!(list(Vec::<u8>::new()), "");
        assert_eq!(list(1..=7), "1, 2, 3, 4, 5 and 2 more");
    }

    #[test]
    fn levels_are_in_order_of_how_bad_they_are() {
        assert!(Level::Error > Level::Warning && Level::Warning > Level::Note);
        assert!(Level::Note > Level::Unknown && Level::Unknown > Level::Ok);
    }
}
