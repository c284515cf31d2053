//! What the manifests mean: listeners, their routes, the backends behind them.
//!
//! A model holds only what is served; everything refused has left a
//! [`Problem`](crate::problem::Problem) behind instead.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;

use crate::name::{Host, HostPattern};
use crate::problem::ObjectRef;

/// All listeners of a snapshot, in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// The listeners that are served.
    pub listeners: Vec<Listener>,
    /// Names that backends of type ExternalName point to, for the daemon to resolve.
    pub external_names: BTreeSet<Host>,
}

/// A virtual IP and port with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Namespace and name of the Listener object.
    pub key: ObjectKey,
    /// The addresses it is served on: at least one, no address twice.
    pub vips: Vec<Vip>,
    /// The TCP port, the same on every VIP.
    pub port: u16,
    /// At most one route per pattern.
    pub routes: Vec<Route>,
}

/// An address a listener is served on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Vip {
    /// Every local address, IPv4 and IPv6: the Listener names no VIP.
    Any,
    /// This address. Never v4-mapped.
    Addr(IpAddr),
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Addr(addr) => addr.fmt(f),
        }
    }
}

/// A host pattern and the backend its connections go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The names it takes.
    pub pattern: HostPattern,
    /// Where they go.
    pub backend: Backend,
    /// The object that says so: an Ingress, or the Listener for its `defaultAction`.
    pub origin: ObjectRef,
}

/// A Service port and its policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Which Service port, and how it is balanced.
    pub key: BackendKey,
    /// Addresses to connect to, sorted, each once; empty where none is known or ready.
    pub endpoints: Vec<SocketAddr>,
}

/// What makes two backends the same one: they share endpoints and balancing state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    /// The Service.
    pub service: ObjectKey,
    /// The port of the Service, as the Ingress names it (number or name).
    pub port: String,
    /// How an endpoint is chosen.
    pub method: Method,
}

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}

/// How a backend's endpoint is chosen for a new connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// One after the other.
    RoundRobin,
    /// The one with the fewest connections of this router; ties go round robin.
    #[default]
    LeastConnection,
    /// Maglev hashing of the client's address: the same client meets the same endpoint.
    SourceIpHash,
}

/// A namespaced object's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ObjectKey {
    /// The cluster it is in.
    #[serde(skip_serializing_if = "Cluster::is_unnamed")]
    pub cluster: Cluster,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectKey {
    /// An object of the same cluster.
    pub fn beside(&self, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            cluster: self.cluster.clone(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    /// `namespace/name`, or `cluster/namespace/name`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cluster,
            namespace,
            name,
        } = self;
        write!(f, "{}{namespace}/{name}", cluster.prefix())
    }
}

/// The name of a Kubernetes cluster; one without a name is the only one, or a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Cluster(Arc<str>);

impl Cluster {
    /// Whether it has no name.
    pub fn is_unnamed(&self) -> bool {
        self.0.is_empty()
    }

    /// The name, empty where it has none.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands in front of the names of its objects: `name/`, or nothing.
    pub(crate) fn prefix(&self) -> impl fmt::Display + '_ {
        struct Prefix<'a>(&'a Cluster);
        impl fmt::Display for Prefix<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0.as_str() {
                    "" => Ok(()),
                    name => write!(f, "{name}/"),
                }
            }
        }
        Prefix(self)
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Cluster {
    type Err = ClusterError;

    /// Takes a DNS label: at most 63 lower-case letters, digits and `-` inside (RFC 1123).
    fn from_str(text: &str) -> Result<Self, ClusterError> {
        let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_label = (1..=63).contains(&text.len())
            && text.bytes().all(inside)
            && !text.starts_with('-')
            && !text.ends_with('-');
        is_label.then(|| Self(text.into())).ok_or(ClusterError)
    }
}

/// A text that cannot be the name of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot be the name of a cluster (write at most 63 lower-case letters, digits and -)")]
pub struct ClusterError;
