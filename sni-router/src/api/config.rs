//! What is served, and what is wrong with it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A Listener that is served.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Listener {
    /// Cluster, namespace and name.
    pub name: String,
    /// Its addresses; `*` is every one.
    pub vips: Vec<String>,
    /// Its port.
    pub port: u16,
    /// How many routes it has.
    pub routes: usize,
    /// Connections accepted so far.
    pub opened: u64,
    /// Connections that are not over.
    pub active: u64,
    /// Whether it takes no new connections.
    pub draining: bool,
    /// Those of its addresses, with port, that could not be bound, and are tried again every five seconds. Only where
    /// no kernel program steers connections; an unspecified address stands for every one of its family.
    #[serde(default)]
    pub unbound: Vec<String>,
}

/// A host pattern of a Listener.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Route {
    /// The Listener.
    pub listener: String,
    /// The names it takes; `*` is every one, and none.
    pub pattern: String,
    /// The object that says so.
    pub origin: String,
    /// The Services its connections go to.
    pub backend: String,
    /// Connections that it took so far.
    pub opened: u64,
    /// Those of them that are not over.
    pub active: u64,
}

/// Services that routes lead to.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Backend {
    /// Cluster, namespace, name and port of each.
    pub name: String,
    /// How an endpoint is chosen: `round robin`, `least connections`, or by `hash of the client's
    /// address`.
    pub method: String,
    /// Their endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// An address of a Service.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Endpoint {
    /// Address and port.
    pub address: String,
    /// The cluster it is in; empty where clusters have no names.
    pub cluster: String,
    /// Whether it gets connections.
    pub state: EndpointState,
    /// Connections that are being opened or carried.
    pub active: usize,
    /// Connections it was chosen for so far.
    pub chosen: u64,
    /// Times it was connected to.
    pub connected: u64,
    /// Times that failed.
    pub failed: u64,
}

/// Whether an endpoint gets connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    /// As others do.
    Good,
    /// The last connect to it failed; it is passed over, and tried again every ten seconds.
    Failing,
    /// No new ones, since an operator wants it so.
    Draining,
}

/// Something wrong in an object.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `error`: not served; `warning`: served, but not as meant; `note`: worth knowing.
    pub severity: String,
    /// What sort of thing is wrong, as one word.
    pub reason: String,
    /// Kind, cluster, namespace and name.
    pub object: String,
    /// The field; empty where the whole object is meant.
    pub path: String,
    /// What is wrong.
    pub what: String,
    /// What to do; empty where nothing needs to be done.
    pub hint: String,
    /// File and line, where the object was read from a file.
    pub at: Option<String>,
}

/// The configuration in force.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Config {
    /// Where it comes from.
    pub source: String,
    /// Its number, of this process; 0 before there is one.
    pub generation: u64,
    /// When it came into force (RFC 3339).
    pub applied_at: Option<String>,
    /// Whether the newest one could not be put in force, so that an older one is.
    pub refused: bool,
    /// Why the manifests cannot be read, while that is so; what they said last stays in force.
    #[serde(default)]
    pub unread: Option<String>,
    /// Listeners served.
    pub listeners: usize,
    /// Their routes.
    pub routes: usize,
    /// Problems that are errors.
    pub errors: usize,
    /// Problems that are warnings.
    pub warnings: usize,
    /// Problems that are notes.
    pub notes: usize,
}
