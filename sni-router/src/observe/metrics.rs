//! The router's metrics.
//!
//! Labels that come from enums are given as indices into the lists of [`Labels`], so that this
//! module need not know whose enums they are.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use sni_router_core::model::ObjectKey;

pub use super::cells::Values;
use super::cells::{Counters, Gauges, Histogram};
use super::clusters::{ClusterCollector, Clusters};
pub use super::listeners::ListenerMetrics;
use super::listeners::{Closed, Listeners, Opened};
use super::process::Process;
use super::samples::{Sampled, Sampler};

/// What the labels can say, each list in the order of its enum.
#[derive(Clone, Copy, Debug)]
pub struct Labels {
    /// How connections end.
    pub reasons: Values,
    /// The datapaths.
    pub datapaths: Values,
    /// Why a datapath refuses a connection.
    pub declines: Values,
    /// How connecting to an endpoint fails.
    pub connect_failures: Values,
}

/// All metrics. Counting takes no lock.
pub struct Metrics {
    registry: Registry,
    /// Those that have the same names in every program.
    process: Registry,
    sampler: Arc<OnceLock<Sampler>>,
    listeners: Arc<Listeners>,
    active: Gauges,
    hello_seconds: Histogram,
    hello_bytes: Histogram,
    connect_seconds: Histogram,
    connect_failures: Counters,
    retries: Counter,
    adopted: Counter,
    declines: Counters,
    reloads: Counters,
    generation: Gauge,
    problems: Gauges,
}

impl Metrics {
    /// All at zero.
    pub fn new(labels: Labels) -> Self {
        let listeners = Arc::new(Listeners::new(labels.reasons, labels.datapaths));
        let mut metrics = Self {
            registry: Registry::with_prefix("sni_router"),
            process: Registry::default(),
            sampler: Arc::default(),
            listeners,
            active: Gauges::new("datapath", labels.datapaths),
            hello_seconds: Histogram::new(MICROSECONDS, 1e6),
            hello_bytes: Histogram::new(BYTES, 1.0),
            connect_seconds: Histogram::new(MICROSECONDS, 1e6),
            connect_failures: Counters::new("kind", labels.connect_failures),
            retries: Counter::default(),
            adopted: Counter::default(),
            declines: Counters::new("reason", labels.declines),
            reloads: Counters::new("result", &["applied", "failed"]),
            generation: Gauge::default(),
            problems: Gauges::new("severity", &["note", "warning", "error"]),
        };
        metrics.register();
        metrics
    }

    /// The same with those of clusters.
    pub fn with_clusters(mut self, clusters: Clusters) -> Self {
        let collector = Box::new(ClusterCollector(clusters));
        self.registry.register_collector(collector);
        self
    }

    /// Has more measured at every scrape from now on. Has no effect the second time.
    pub fn measure(&self, sampler: Sampler) {
        let _ = self.sampler.set(sampler);
    }

    /// The counters of a listener; of connections to no listener without a key.
    pub fn listener(&self, key: Option<&ObjectKey>) -> Arc<ListenerMetrics> {
        self.listeners.of(key)
    }

    /// A datapath took a connection over.
    pub fn carrying(&self, datapath: usize) {
        self.active.add(datapath, 1);
    }

    /// A datapath is done with a connection.
    pub fn carried(&self, datapath: usize) {
        self.active.add(datapath, -1);
    }

    /// Connections that each datapath carries now.
    pub fn active(&self) -> impl Iterator<Item = (&'static str, i64)> {
        self.active.all()
    }

    /// Connections that were refused by a datapath so far, by reason.
    pub fn declines(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.declines.all()
    }

    /// Connections accepted so far.
    pub fn opened_so_far(&self) -> u64 {
        self.listeners.opened()
    }

    /// Connections that ended so far, by reason.
    pub fn closed_so_far(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.listeners.closed()
    }

    /// A hello of `bytes` was complete, `took` after its connection was accepted.
    pub fn hello(&self, took: Duration, bytes: usize) {
        self.hello_seconds.observe(microseconds(took));
        self.hello_bytes.observe(bytes as u64);
    }

    /// An endpoint was connected to, after `retries` others had failed.
    pub fn connected(&self, took: Duration, retries: u32) {
        self.connect_seconds.observe(microseconds(took));
        self.retries.inc_by(retries.into());
    }

    /// An endpoint could not be connected to.
    pub fn connect_failed(&self, kind: usize) {
        self.connect_failures.add(kind, 1);
    }

    /// A connection was taken over from an earlier process.
    pub fn adopted(&self) {
        self.adopted.inc();
    }

    /// A datapath refused a connection.
    pub fn declined(&self, reason: usize) {
        self.declines.add(reason, 1);
    }

    /// A snapshot is in force, with so many problems of each severity.
    pub fn applied(&self, generation: u64, problems: Problems) {
        self.reloads.add(0, 1);
        self.generation
            .set(i64::try_from(generation).unwrap_or(i64::MAX));
        for (index, count) in [problems.notes, problems.warnings, problems.errors]
            .into_iter()
            .enumerate()
        {
            self.problems
                .set(index, i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// A snapshot could not be put in force; the last one is.
    pub fn apply_failed(&self) {
        self.reloads.add(1, 1);
    }

    /// The OpenMetrics text of all of them.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode_registry(&mut text, &self.registry)?;
        text::encode_registry(&mut text, &self.process)?;
        text::encode_eof(&mut text)?;
        Ok(text)
    }

    fn register(&mut self) {
        let all = &mut self.registry;
        all.register(
            "build",
            "The version that is running",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        all.register(
            "connections_opened",
            "Connections accepted",
            Opened(Arc::clone(&self.listeners)),
        );
        all.register(
            "connections_closed",
            "Connections that ended, by how, and by the datapath that carried them",
            Closed(Arc::clone(&self.listeners)),
        );
        all.register(
            "connections_active",
            "Connections carried now",
            self.active.clone(),
        );
        all.register_with_unit(
            "hello",
            "Time from accept to the last byte of the ClientHello",
            Unit::Seconds,
            self.hello_seconds.clone(),
        );
        all.register_with_unit(
            "hello",
            "Size of the ClientHello",
            Unit::Bytes,
            self.hello_bytes.clone(),
        );
        all.register_with_unit(
            "connect",
            "Time to connect to an endpoint, all retries together",
            Unit::Seconds,
            self.connect_seconds.clone(),
        );
        all.register(
            "connect_failures",
            "Endpoints that could not be connected to",
            self.connect_failures.clone(),
        );
        all.register(
            "retries",
            "Endpoints that were passed over before a connection succeeded",
            self.retries.clone(),
        );
        all.register(
            "flows_adopted",
            "Connections taken over that an earlier process had left to the kernel",
            self.adopted.clone(),
        );
        all.register(
            "datapath_declines",
            "Connections that a better datapath refused",
            self.declines.clone(),
        );
        all.register(
            "reloads",
            "Snapshots of manifests, by what became of them",
            self.reloads.clone(),
        );
        all.register(
            "config_generation",
            "Number of the snapshot in force",
            self.generation.clone(),
        );
        all.register(
            "config_problems",
            "Problems in the snapshot in force",
            self.problems.clone(),
        );
        all.register_collector(Box::new(Sampled(Arc::clone(&self.sampler))));
        self.process.register_collector(Box::new(Process::new()));
    }
}

/// How many problems there are, by severity.
#[derive(Clone, Copy, Debug, Default)]
pub struct Problems {
    /// Worth knowing.
    pub notes: usize,
    /// Served, but not as meant.
    pub warnings: usize,
    /// Not served.
    pub errors: usize,
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// From an endpoint on the same host to the timeout of 5 s that hellos have by default.
const MICROSECONDS: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000,
];

/// A classic hello has about 250 bytes, one padded for old load balancers 517, a post-quantum one
/// 1,500 to 2,000; the limit is 64 KiB.
const BYTES: &[u64] = &[256, 512, 1024, 1536, 2048, 4096, 8192, 16_384, 65_536];

#[cfg(test)]
mod tests;
