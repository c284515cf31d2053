//! Problems: what is wrong in a manifest, where, and what to do about it.
//!
//! A problem is data. `check`, the log and an object's status all print the same text.

use std::fmt;

use serde::Serialize;

/// How much a [`Problem`] costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing is lost.
    Note,
    /// Served, but probably not as its author thinks.
    Warning,
    /// The object, or the named part of it, is not served.
    Error,
}

/// A Kubernetes object by kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ObjectRef {
    /// The kind as in the manifest, `Listener`; `File` for a text that is no object.
    pub kind: String,
    /// The namespace, `default` where the manifest has none; `None` for cluster-scoped kinds.
    pub namespace: Option<String>,
    /// The name; for a `File` its path.
    pub name: String,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// Something wrong in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// What it costs.
    pub severity: Severity,
    /// The object it is in.
    pub object: ObjectRef,
    /// The field, as `spec.certificates[0].secret`; empty where the whole object is meant.
    pub path: String,
    /// What is wrong, lower case, without a full stop.
    pub what: String,
    /// What to do, lower case, without a full stop.
    pub hint: String,
}

impl fmt::Display for Problem {
    /// `error: Listener default/web: spec.vip: "x" is not an IP address (write an IPv4 or …)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{severity}: {}: ", self.object)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}", self.what)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}
