//! Problems: what is wrong in a manifest, where, and what to do about it.
//!
//! A problem is data. `check`, the log and an object's status all print the same text.

use std::fmt;

use serde::Serialize;

use crate::model::Cluster;

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

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// What sort of thing is wrong, as one word: the reason of a condition or an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Reason {
    /// It says something that is wrong in itself.
    Invalid,
    /// It is served, but something in it probably does not do what its author thinks.
    Questionable,
    /// Nothing is wrong.
    Noted,
    /// It wants TLS to be terminated.
    PassthroughOff,
    /// An older Listener has its address and port.
    AddressConflict,
    /// An older Ingress has its host.
    HostConflict,
    /// The Listeners of one address and port do not say the same in every cluster.
    ClusterConflict,
    /// The Listener it names is not there.
    ListenerNotFound,
    /// The Listener it names is not served.
    ListenerRefused,
    /// The Listener it names does not take Ingresses of its namespace.
    NotAllowedByListener,
    /// A certificate it names cannot be used.
    InvalidCertificateRef,
    /// A Service or a port it names is not there.
    BackendNotFound,
    /// A Service it names has no endpoint that is ready.
    BackendNotReady,
}

impl Reason {
    /// As in conditions and events, CamelCase.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid",
            Self::Questionable => "Questionable",
            Self::Noted => "Noted",
            Self::PassthroughOff => "PassthroughOff",
            Self::AddressConflict => "AddressConflict",
            Self::HostConflict => "HostConflict",
            Self::ClusterConflict => "ClusterConflict",
            Self::ListenerNotFound => "ListenerNotFound",
            Self::ListenerRefused => "ListenerRefused",
            Self::NotAllowedByListener => "NotAllowedByListener",
            Self::InvalidCertificateRef => "InvalidCertificateRef",
            Self::BackendNotFound => "BackendNotFound",
            Self::BackendNotReady => "BackendNotReady",
        }
    }
}

/// A Kubernetes object by kind, cluster, namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ObjectRef {
    /// The kind as in the manifest, `Listener`; `File` for a text that is no object.
    pub kind: String,
    /// The cluster it is in.
    #[serde(skip_serializing_if = "Cluster::is_unnamed")]
    pub cluster: Cluster,
    /// The namespace, `default` where the manifest has none; `None` for cluster-scoped kinds.
    pub namespace: Option<String>,
    /// The name; for a `File` its path.
    pub name: String,
}

impl ObjectRef {
    /// A text as a whole, where no object in it can be named.
    pub fn file(path: &str) -> Self {
        Self {
            kind: "File".into(),
            cluster: Cluster::default(),
            namespace: None,
            name: path.into(),
        }
    }

    /// The same in a cluster.
    pub fn within(mut self, cluster: &Cluster) -> Self {
        self.cluster = cluster.clone();
        self
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.cluster.prefix())?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

/// Where in the manifests something is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The path of the file, as the source of the snapshot names it.
    pub file: String,
    /// The line, counted from 1.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Something wrong in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// What it costs.
    pub severity: Severity,
    /// What sort of thing is wrong.
    pub reason: Reason,
    /// The object it is in.
    pub object: ObjectRef,
    /// The field, as `spec.certificates[0].secret`; empty where the whole object is meant.
    pub path: String,
    /// What is wrong, lower case, without a full stop.
    pub what: String,
    /// What to do, lower case, without a full stop; empty where nothing needs to be done.
    pub hint: String,
    /// Where it is written; `None` where the object is no longer in the snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Place>,
}

impl Problem {
    /// The object, or the named part of it, is not served.
    pub fn error(object: &ObjectRef, path: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Severity::Error, object, path.into(), what.into())
    }

    /// Served, but probably not as its author thinks.
    pub fn warning(object: &ObjectRef, path: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Severity::Warning, object, path.into(), what.into())
    }

    /// Worth knowing.
    pub fn note(object: &ObjectRef, path: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Severity::Note, object, path.into(), what.into())
    }

    /// The same with a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// The same with a reason of its own.
    pub fn reason(mut self, reason: Reason) -> Self {
        self.reason = reason;
        self
    }

    fn new(severity: Severity, object: &ObjectRef, path: String, what: String) -> Self {
        Self {
            severity,
            reason: match severity {
                Severity::Error => Reason::Invalid,
                Severity::Warning => Reason::Questionable,
                Severity::Note => Reason::Noted,
            },
            object: object.clone(),
            path,
            what,
            hint: String::new(),
            at: None,
        }
    }
}

impl fmt::Display for Problem {
    /// `error: Listener default/web: spec.vip: "x" is not an IP address (write an IPv4 or …)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: ", self.severity, self.object)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.what)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_is_one_line_with_object_path_what_and_hint() {
        let object = ObjectRef {
            kind: "Listener".into(),
            cluster: Cluster::default(),
            namespace: Some("default".into()),
            name: "web".into(),
        };
        let problem = Problem::error(&object, "spec.vip", "\"x\" is not an IP address")
            .hint("write an IPv4 or IPv6 address");
        assert_eq!(
            problem.to_string(),
            "error: Listener default/web: spec.vip: \"x\" is not an IP address \
             (write an IPv4 or IPv6 address)"
        );
    }

    #[test]
    fn problem_leaves_out_what_it_does_not_have() {
        let problem = Problem::note(&ObjectRef::file("a.yaml"), "", "is empty");
        assert_eq!(problem.to_string(), "note: File a.yaml: is empty");
    }
}
