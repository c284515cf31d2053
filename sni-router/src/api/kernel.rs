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
    /// What the start has found out about each datapath.
    pub self_tests: Vec<SelfTest>,
    /// The programs in the kernel.
    pub programs: Vec<Program>,
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
    /// What the start has found out about each datapath.
    pub self_tests: Vec<SelfTest>,
    /// Where what outlives the process is pinned.
    pub pins: Option<String>,
    /// The programs.
    pub programs: Vec<Program>,
    /// Their maps.
    pub maps: Vec<Map>,
    /// The interfaces that `tc` knows.
    pub interfaces: Vec<Interface>,
    /// What the programs have counted.
    pub counters: BTreeMap<String, u64>,
}

/// What the start has found out about a datapath.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SelfTest {
    /// Its name.
    pub datapath: String,
    /// What came of it.
    pub result: TestResult,
    /// Why it fails, or was not tried.
    pub why: Option<String>,
}

/// What came of a self-test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TestResult {
    /// Its programs were loaded and attached; those of `sockmap` have carried bytes besides.
    Works,
    /// They were not.
    Fails,
    /// It was not asked for.
    NotTried,
}

/// A program in the kernel.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// What kind of program it is: `sk_lookup`, `sk_skb`, `sched_cls`.
    pub kind: String,
    /// The kernel's number for it, as `bpftool prog show id` takes it.
    pub id: u32,
    /// Where it is attached.
    pub attached: Vec<Attachment>,
    /// How often it ran while `kernel.bpf_stats_enabled` was on; `None` where it was not.
    pub runs: Option<u64>,
    /// How long these runs took in all.
    pub run_seconds: Option<f64>,
}

/// Where a program is attached.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Attachment {
    /// An interface, the network namespace, or a map.
    pub to: String,
    /// How: `tcx`, `clsact`, `netns` or `map`.
    pub by: String,
}

/// An interface whose packets should be looked at.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The program that looks at them.
    pub program: Option<String>,
    /// Why there is none: connections over it are carried by sockets.
    pub why: Option<String>,
}

/// A map of the kernel programs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Map {
    /// Its name.
    pub name: String,
    /// How many entries it has room for, of a per-CPU array for each CPU; of a ring buffer, how many
    /// bytes.
    pub capacity: u64,
    /// How many it has. None of arrays, which are there as a whole, and of ring buffers, which are read
    /// at once: what did not fit is among the counters.
    pub used: Option<u64>,
    /// Whether it forgets old entries where it is full, so that being full is no fault.
    pub forgets: bool,
}
