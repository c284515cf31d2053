//! The counters of each listener.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use sni_router_core::model::ObjectKey;

use super::cells::Values;

/// The connections of one listener.
#[derive(Debug)]
pub struct ListenerMetrics {
    opened: AtomicU64,
    /// Those that an earlier process has accepted.
    adopted: AtomicU64,
    /// By reason, then datapath; the last datapath is none.
    closed: Box<[AtomicU64]>,
    datapaths: usize,
}

impl ListenerMetrics {
    /// A connection was accepted.
    pub fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was taken over that an earlier process has accepted.
    pub fn adopted(&self) {
        self.adopted.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection ended; `datapath` is the one that carried it, if it came so far.
    ///
    /// Both are indices of the [`Labels`](super::metrics::Labels).
    pub fn closed(&self, reason: usize, datapath: Option<usize>) {
        let datapath = datapath.unwrap_or(self.datapaths);
        let cell = self.closed.get(reason * (self.datapaths + 1) + datapath);
        debug_assert!(
            cell.is_some(),
            "no reason {reason} with datapath {datapath}"
        );
        if let Some(cell) = cell {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Connections accepted so far.
    pub fn opened_so_far(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Connections that ended so far.
    pub fn closed_so_far(&self) -> u64 {
        let counts = self.closed.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Connections that have not ended.
    pub fn active(&self) -> u64 {
        // Those that ended first: one that comes and goes in between must not be missing.
        let closed = self.closed_so_far();
        let adopted = self.adopted.load(Ordering::Relaxed);
        (self.opened_so_far() + adopted).saturating_sub(closed)
    }

    /// Those that ended for a reason.
    fn closed_for(&self, reason: usize) -> u64 {
        let each = self.datapaths + 1;
        let counts = self.closed.iter().skip(reason * each).take(each);
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn new(reasons: usize, datapaths: usize) -> Self {
        let closed = (0..reasons * (datapaths + 1))
            .map(|_| AtomicU64::default())
            .collect();
        Self {
            opened: AtomicU64::default(),
            adopted: AtomicU64::default(),
            closed,
            datapaths,
        }
    }
}

/// All listeners there ever were: a counter that goes away and starts again at zero misleads.
#[derive(Debug)]
pub(super) struct Listeners {
    reasons: Values,
    datapaths: Values,
    /// Read for each connection, replaced when a listener is first seen.
    by_key: ArcSwap<HashMap<ObjectKey, Arc<ListenerMetrics>>>,
    /// For connections to an address of no listener.
    none: Arc<ListenerMetrics>,
}

impl Listeners {
    pub(super) fn new(reasons: Values, datapaths: Values) -> Self {
        Self {
            reasons,
            datapaths,
            by_key: ArcSwap::default(),
            none: Arc::new(ListenerMetrics::new(reasons.len(), datapaths.len())),
        }
    }

    pub(super) fn of(&self, key: Option<&ObjectKey>) -> Arc<ListenerMetrics> {
        let Some(key) = key else {
            return Arc::clone(&self.none);
        };
        if let Some(known) = self.by_key.load().get(key) {
            return Arc::clone(known);
        }
        let new = Arc::new(ListenerMetrics::new(
            self.reasons.len(),
            self.datapaths.len(),
        ));
        self.by_key.rcu(|all| {
            let mut all = HashMap::clone(all);
            all.entry(key.clone()).or_insert_with(|| Arc::clone(&new));
            all
        });
        // Another thread may have been first.
        self.by_key.load().get(key).map_or(new, Arc::clone)
    }

    /// Connections accepted so far.
    pub(super) fn opened(&self) -> u64 {
        self.all().iter().map(|it| it.opened_so_far()).sum()
    }

    /// Connections that ended so far, by reason.
    pub(super) fn closed(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = self.all();
        let reasons = self.reasons.iter().enumerate();
        reasons.map(move |(index, reason)| {
            let counts = all.iter().map(|it| it.closed_for(index));
            (*reason, counts.sum())
        })
    }

    fn all(&self) -> Vec<Arc<ListenerMetrics>> {
        let known = self.by_key.load();
        let known = known.values().map(Arc::clone);
        known.chain([Arc::clone(&self.none)]).collect()
    }

    /// By name, in order; connections to no listener come last, if there were any.
    fn sorted(&self) -> Vec<(String, Arc<ListenerMetrics>)> {
        let all = self.by_key.load();
        let mut all: Vec<_> = all
            .iter()
            .map(|(key, metrics)| (key.to_string(), Arc::clone(metrics)))
            .collect();
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let none = Arc::clone(&self.none);
        all.extend(Some((String::new(), none)).filter(|_| self.lost_any()));
        all
    }

    fn lost_any(&self) -> bool {
        self.none.opened_so_far() > 0 || self.none.closed_so_far() > 0
    }
}

/// `connections_opened_total{listener}`
#[derive(Debug)]
pub(super) struct Opened(pub(super) Arc<Listeners>);

impl EncodeMetric for Opened {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (listener, metrics) in self.0.sorted() {
            let count = metrics.opened.load(Ordering::Relaxed);
            encoder
                .encode_family(&[("listener", listener.as_str())])?
                .encode_counter::<NoLabelSet, _, f64>(&count, None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// `connections_closed_total{listener,reason,datapath}`, of which only what happened is shown:
/// most reasons never meet most datapaths.
#[derive(Debug)]
pub(super) struct Closed(pub(super) Arc<Listeners>);

impl EncodeMetric for Closed {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let datapaths = self.0.datapaths.len() + 1;
        for (listener, metrics) in self.0.sorted() {
            for (index, cell) in metrics.closed.iter().enumerate() {
                let count = cell.load(Ordering::Relaxed);
                if count == 0 {
                    continue;
                }
                let labels = [
                    ("listener", listener.as_str()),
                    ("reason", self.0.reasons[index / datapaths]),
                    (
                        "datapath",
                        self.0.datapaths.get(index % datapaths).unwrap_or(&"none"),
                    ),
                ];
                encoder
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, _, f64>(&count, None)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}
