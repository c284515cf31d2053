//! What the admin API says of all parts together: they do not know each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use sni_router_common::counter::Counter;
use sni_router_core::table::RouteTable;

use crate::datapath::bpf::Counters;
use crate::datapath::choose::Chosen;
use crate::observe::admin::Status;
use crate::observe::clusters::{ClusterMetrics, Clusters};
use crate::observe::metrics::Metrics;
use crate::proxy::Proxy;
use crate::source::kubernetes::ClusterFacts;

/// Asks how the clusters fare; there are none where manifests are files.
pub type Facts = dyn Fn() -> Vec<ClusterFacts> + Send + Sync;

/// What `/api/v1/status` says.
pub fn status(
    chosen: &Chosen,
    table: Arc<ArcSwap<RouteTable>>,
    proxy: Arc<Proxy>,
    metrics: Arc<Metrics>,
    clusters: Arc<Facts>,
) -> Status {
    let datapath = chosen.datapath.kind().as_str();
    let declined = chosen.declined.clone();
    let counters = chosen.counters.clone();
    Arc::new(move || {
        let table = table.load();
        let listeners: Vec<_> = table
            .listeners()
            .map(|listener| {
                json!({
                    "name": listener.front.key.to_string(),
                    "vips": listener.front.vips.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    "port": listener.front.port,
                    "routes": listener.routes().count(),
                })
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "generation": table.generation(),
            "connections": proxy.active(),
            "datapath": datapath,
            "carried": metrics.active().collect::<BTreeMap<_, _>>(),
            "declines": metrics.declines().collect::<BTreeMap<_, _>>(),
            "declined": declined,
            "listeners": listeners,
            "clusters": clusters().iter().map(cluster).collect::<Vec<_>>(),
            "kernel": counters.as_deref().map(kernel_counters),
        })
    })
}

/// How the clusters fare, as metrics want it.
pub fn metrics(clusters: Arc<Facts>) -> Clusters {
    Box::new(move || {
        let facts = clusters().into_iter();
        facts
            .map(|facts| ClusterMetrics {
                cluster: facts.cluster,
                objects: facts
                    .objects
                    .into_iter()
                    .map(|(kind, count)| (kind, count as u64))
                    .collect(),
                watch_errors: facts.watch_errors.into_iter().collect(),
                is_stale: facts.stale_for.is_some(),
                last_event: facts
                    .last_event
                    .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
                    .map(|since| since.as_secs_f64()),
                definition_problems: facts.definition_problems.len() as u64,
                is_leader: facts.is_leader,
                writes: facts.writes.to_vec(),
            })
            .collect()
    })
}

fn cluster(facts: &ClusterFacts) -> Value {
    json!({
        "name": &*facts.cluster,
        "objects": facts.objects,
        "stale_for_seconds": facts.stale_for.map(|age| age.as_secs()),
        "why": facts.why,
        "definition_problems": facts.definition_problems,
        "leader": facts.is_leader,
    })
}

fn kernel_counters(counters: &Counters) -> Value {
    let counts = Counter::ALL.map(|counter| (counter.as_str().to_owned(), counters.read(counter)));
    json!(BTreeMap::from(counts))
}
