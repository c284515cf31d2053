//! What is known of the clusters that are watched, asked for at every scrape.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// How one cluster fares.
#[derive(Clone, Debug)]
pub struct ClusterMetrics {
    /// Its name.
    pub cluster: Arc<str>,
    /// Objects by kind.
    pub objects: Vec<(&'static str, u64)>,
    /// Watches that began again because of an error, by kind.
    pub watch_errors: Vec<(&'static str, u64)>,
    /// Whether what is in force may be outdated.
    pub is_stale: bool,
    /// When the API server last said something new, in seconds since 1970.
    pub last_event: Option<f64>,
    /// What is wrong with the definition of Listener.
    pub definition_problems: u64,
    /// Whether this router writes status and events.
    pub is_leader: bool,
    /// Writes by what they were.
    pub writes: Vec<(&'static str, u64)>,
}

/// Asks how the clusters fare.
pub type Clusters = Box<dyn Fn() -> Vec<ClusterMetrics> + Send + Sync>;

/// The metrics of all clusters.
pub(super) struct ClusterCollector(pub(super) Clusters);

impl fmt::Debug for ClusterCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterCollector")
    }
}

impl Collector for ClusterCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families {
            clusters: (self.0)(),
            encoder,
        };
        families.gauge(
            "source_objects",
            "Objects that are kept of a cluster",
            "kind",
            |cluster| as_gauges(&cluster.objects),
        )?;
        families.counter(
            "source_watch_errors",
            "Watches that began again because of an error",
            "kind",
            |cluster| cluster.watch_errors.clone(),
        )?;
        families.plain(
            "source_stale",
            "Whether what is in force of a cluster may be outdated, as its API server does not answer",
            |cluster| Some(cluster.is_stale.into()),
        )?;
        families.plain(
            "source_last_event_timestamp_seconds",
            "When the API server last said something new",
            |cluster| cluster.last_event,
        )?;
        families.plain(
            "source_definition_problems",
            "What is wrong with the cluster's definition of Listener",
            |cluster| Some(cluster.definition_problems as f64),
        )?;
        families.plain(
            "leader",
            "Whether this router writes status and events of a cluster",
            |cluster| Some(cluster.is_leader.into()),
        )?;
        families.counter(
            "source_writes",
            "Status and events written into a cluster, and attempts that failed",
            "what",
            |cluster| cluster.writes.clone(),
        )
    }
}

fn as_gauges(counts: &[(&'static str, u64)]) -> Vec<(&'static str, f64)> {
    counts
        .iter()
        .map(|(name, count)| (*name, *count as f64))
        .collect()
}

struct Families<'a> {
    clusters: Vec<ClusterMetrics>,
    encoder: DescriptorEncoder<'a>,
}

impl Families<'_> {
    fn plain(
        &mut self,
        name: &str,
        help: &str,
        value: impl Fn(&ClusterMetrics) -> Option<f64>,
    ) -> fmt::Result {
        let mut family = descriptor(&mut self.encoder, name, help, MetricType::Gauge)?;
        for cluster in &self.clusters {
            if let Some(value) = value(cluster) {
                family
                    .encode_family(&[("cluster", &*cluster.cluster)])?
                    .encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Fn(&ClusterMetrics) -> Vec<(&'static str, f64)>,
    ) -> fmt::Result {
        let mut family = descriptor(&mut self.encoder, name, help, MetricType::Gauge)?;
        for cluster in &self.clusters {
            for (kind, value) in values(cluster) {
                family
                    .encode_family(&[("cluster", &*cluster.cluster), (label, kind)])?
                    .encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    fn counter(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Fn(&ClusterMetrics) -> Vec<(&'static str, u64)>,
    ) -> fmt::Result {
        let mut family = descriptor(&mut self.encoder, name, help, MetricType::Counter)?;
        for cluster in &self.clusters {
            for (kind, value) in values(cluster) {
                family
                    .encode_family(&[("cluster", &*cluster.cluster), (label, kind)])?
                    .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
            }
        }
        Ok(())
    }
}

fn descriptor<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
    kind: MetricType,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, kind)
}
