//! Connections that are not over.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A connection, from accept to close.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Connection {
    /// Its number, which its access-log line has too; never given twice by a process.
    pub id: u64,
    /// The client's address and port.
    pub client: String,
    /// The address and port that the client connected to.
    pub vip: String,
    /// The Listener of that address.
    pub listener: Option<String>,
    /// How far it has come.
    pub state: State,
    /// The server name in its hello. Not known of connections that an earlier process accepted.
    pub host: Option<String>,
    /// The host pattern that took it.
    pub route: Option<String>,
    /// The Services that route leads to.
    pub backend: Option<String>,
    /// The endpoint's address and port.
    pub endpoint: Option<String>,
    /// What carries it.
    pub datapath: Option<String>,
    /// Time since it was accepted.
    pub age_seconds: f64,
    /// Time since anything was moved, about a second exact.
    pub idle_seconds: f64,
    /// Bytes from the client to the endpoint.
    pub bytes_up: u64,
    /// Bytes from the endpoint to the client.
    pub bytes_down: u64,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its hello is not complete.
    Hello,
    /// An endpoint is being connected to.
    Connecting,
    /// A datapath carries it.
    Carried,
}

/// Which connections. Each part that is given must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct ConnectionQuery {
    /// The Listener, as `/api/v1/listeners` names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// The server name; `*.example.com` is every name below that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The client: an address, a network as `192.0.2.0/24`, or an address with its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The endpoint: an address, a network, or an address with its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// `tc`, `sockmap` or `userspace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datapath: Option<String>,
    /// Only those with a greater number: `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// How many at most, up to 1,000 [default: 100].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<usize>,
}

/// Some connections, by number.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Page {
    /// Those.
    pub connections: Vec<Connection>,
    /// How many fit, those before and behind this page included.
    pub total: usize,
    /// To be given as `after`, if there are more.
    pub next: Option<u64>,
}

/// Connections that were told to end.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Closed {
    /// How many.
    pub closed: usize,
}

/// Which connections are followed. Each part that is given must fit.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct TraceQuery {
    /// The server name; `*.example.com` is every name below that. Steps before the hello is read are not
    /// shown then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The client: an address, a network as `192.0.2.0/24`, or an address with its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
}

/// Something that a connection went through.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// When (RFC 3339).
    pub at: String,
    /// The connection's number.
    pub id: u64,
    /// The client's address and port.
    pub client: String,
    /// The server name, once it is known.
    pub host: Option<String>,
    /// How far it has come: `accepted`, `hello`, `routed`, `connected`, `carried`, `declined`, `closed`;
    /// `lost` where steps are missing, since they were not read fast enough.
    pub phase: String,
    /// What there is to say of it.
    pub detail: String,
}
