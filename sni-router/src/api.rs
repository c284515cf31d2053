//! What the admin API says and is told, as JSON: for who serves it and for who asks.

mod config;
mod connections;
mod explanation;
mod kernel;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::config::{Backend, Config, Endpoint, EndpointState, Listener, Problem, Route};
pub use self::connections::{Closed, Connection, ConnectionQuery, Page, State, Step, TraceQuery};
pub use self::explanation::{Explanation, Question, Tried};
pub use self::kernel::{
    Attachment, Cluster, Interface, Kernel, Map, Program, SelfTest, Status, TestResult,
};

/// Why a call was refused.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Refusal {
    /// What is wrong, and what to do.
    pub error: String,
}

/// What to drain, or to stop draining: exactly one of the two.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// A Listener, as `/api/v1/listeners` names it. New connections to it are reset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// An endpoint, as `10.0.0.1:8443`, of whatever backend. New connections go to others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// What became of a call to drain.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Drained {
    /// Whether it was not so before.
    pub changed: bool,
    /// Connections there that go on.
    pub connections: usize,
}

/// What is logged.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogLevel {
    /// As `--log-level` takes it: `info`, or `warn,access=off`.
    pub filter: String,
}
