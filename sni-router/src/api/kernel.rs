//! How the router and its kernel programs fare.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Everything at a glance. Counts are those since the start.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The router's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Time since its start.
    pub uptime_seconds: f64,
    /// The configuration in force.
    pub generation: u64,
    /// Connections that are not over.
    pub connections: usize,
    /// Connections accepted.
    pub opened: u64,
    /// Connections that ended, by how.
    pub closed: BTreeMap<String, u64>,
    /// Those of them that were turned away, by why. A client that comes to be denied while it is carried
    /// counts, too.
    pub rejects: BTreeMap<String, u64>,
    /// Bytes from clients.
    pub bytes_up: u64,
    /// Bytes to clients.
    pub bytes_down: u64,
    /// The best datapath there is.
    pub datapath: String,
    /// Why there is no better one.
    pub declined: Option<String>,
    /// Connections that each datapath carries.
    pub carried: BTreeMap<String, i64>,
    /// Connections that a better datapath refused, by reason.
    pub declines: BTreeMap<String, u64>,
    /// What is served.
    pub listeners: Vec<super::Listener>,
    /// The clusters it reads, where it does.
    pub clusters: Vec<Cluster>,
    /// What the kernel programs have counted; `None` where there are none.
    pub kernel: Option<BTreeMap<String, u64>>,
}

/// How a cluster fares.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Its objects, by kind.
    pub objects: BTreeMap<String, usize>,
    /// How long it was not heard from; `None` if it is up to date.
    pub stale_for_seconds: Option<u64>,
    /// Why.
    pub why: Option<String>,
    /// What is wrong with its definition of Listener.
    pub definition_problems: Vec<String>,
    /// Whether this router writes its statuses.
    pub leader: bool,
}

/// What the router has in the kernel.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Kernel {
    /// Its release, as uname(2) says.
    pub release: String,
    /// The best datapath there is.
    pub datapath: String,
    /// Why there is no better one: what failed of loading, attaching or the self-test.
    pub declined: Option<String>,
    /// Where what outlives the process is pinned.
    pub pins: Option<String>,
    /// The maps of its programs.
    pub maps: Vec<Map>,
    /// The interfaces whose packets are looked at, and by which program.
    pub interfaces: Vec<String>,
    /// What the programs have counted.
    pub counters: BTreeMap<String, u64>,
}

/// A map of the kernel programs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Map {
    /// Its name.
    pub name: String,
    /// How many entries it has room for; of a ring buffer, how many bytes.
    pub capacity: u64,
    /// How many it has, where that is known without counting them.
    pub used: Option<u64>,
}
