//! What the manifests mean: listeners, their routes, the backends behind them.
//!
//! A model holds only what is served; everything refused has left a
//! [`Problem`](crate::problem::Problem) behind instead.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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
    /// Namespace and name of the Listener object. Of one that several clusters have, those of the
    /// oldest object, without a cluster.
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

impl Vip {
    /// The addresses to bind for it where the kernel does not steer; the unspecified ones for every local address.
    pub fn sockets(self, port: u16) -> impl Iterator<Item = SocketAddr> {
        let addrs = match self {
            Self::Any => [
                Some(Ipv4Addr::UNSPECIFIED.into()),
                Some(Ipv6Addr::UNSPECIFIED.into()),
            ],
            Self::Addr(addr) => [Some(addr), None],
        };
        addrs
            .into_iter()
            .flatten()
            .map(move |addr: IpAddr| (addr, port).into())
    }
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
    /// The object that says so: an Ingress, or the Listener for its `defaultAction`; the oldest of
    /// those in several clusters.
    pub origin: ObjectRef,
}

/// Where the connections of a route go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Which Service ports, and how it is balanced.
    pub key: BackendKey,
    /// Addresses to connect to, for each of the key's shares in their order. In a share they are
    /// sorted; none is there twice, also not in two shares. Empty where none is known or ready.
    pub endpoints: Vec<Vec<SocketAddr>>,
}

/// What makes two backends the same one: they share endpoints and balancing state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    shares: Arc<[Share]>,
    /// How an endpoint of a share is chosen.
    pub method: Method,
}

impl BackendKey {
    /// A Service port of one cluster.
    pub fn of(service: ObjectKey, port: impl Into<String>, method: Method) -> Self {
        let share = Share {
            service,
            port: port.into(),
            tier: 0,
            weight: None,
        };
        Self {
            shares: Arc::new([share]),
            method,
        }
    }

    /// Service ports of several clusters, at most one of each.
    pub fn shared(shares: Vec<Share>, method: Method) -> Self {
        Self {
            shares: shares.into(),
            method,
        }
    }

    /// What each cluster gives to it.
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }
}

impl fmt::Display for BackendKey {
    /// `namespace/service:port`, of several clusters with ` + ` between.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, share) in self.shares.iter().enumerate() {
            if index > 0 {
                f.write_str(" + ")?;
            }
            write!(f, "{}:{}", share.service, share.port)?;
        }
        Ok(())
    }
}

/// What one cluster gives to a backend: a Service port, and how many connections it gets of those
/// that several clusters share.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Share {
    /// The Service.
    pub service: ObjectKey,
    /// The port of the Service, as the Ingress names it (number or name).
    pub port: String,
    /// The lowest tier that has an endpoint gets all connections.
    pub tier: u16,
    /// The part of its tier's connections that it gets, as a ratio to the others' weights; `None`:
    /// as many as it has endpoints.
    pub weight: Option<u16>,
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
