//! Metrics that cost one or two atomic additions.
//!
//! The labels of a connection's metrics come from enums, so a family is an array and a label its
//! index; nothing is hashed and no lock is taken. A text is only made of it when somebody asks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// The values a label can have, in the order of the enum that has them.
pub type Values = &'static [&'static str];

/// A counter for each value of a label. Clones count together.
#[derive(Clone, Debug)]
pub(super) struct Counters {
    label: &'static str,
    values: Values,
    cells: Arc<[AtomicU64]>,
}

impl Counters {
    pub(super) fn new(label: &'static str, values: Values) -> Self {
        let cells = values.iter().map(|_| AtomicU64::default()).collect();
        Self {
            label,
            values,
            cells,
        }
    }

    pub(super) fn add(&self, index: usize, more: u64) {
        if let Some(cell) = cell(&self.cells, index) {
            cell.fetch_add(more, Ordering::Relaxed);
        }
    }
}

impl Counters {
    /// Every value of the label, and its count.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.cells.iter().map(|cell| cell.load(Ordering::Relaxed));
        self.values.iter().copied().zip(counts)
    }
}

impl EncodeMetric for Counters {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (value, cell) in self.values.iter().zip(&*self.cells) {
            let count = cell.load(Ordering::Relaxed);
            encoder
                .encode_family(&[(self.label, *value)])?
                .encode_counter::<NoLabelSet, _, f64>(&count, None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// A gauge for each value of a label. Clones are one.
#[derive(Clone, Debug)]
pub(super) struct Gauges {
    label: &'static str,
    values: Values,
    cells: Arc<[AtomicI64]>,
}

impl Gauges {
    pub(super) fn new(label: &'static str, values: Values) -> Self {
        let cells = values.iter().map(|_| AtomicI64::default()).collect();
        Self {
            label,
            values,
            cells,
        }
    }

    pub(super) fn add(&self, index: usize, more: i64) {
        if let Some(cell) = cell(&self.cells, index) {
            cell.fetch_add(more, Ordering::Relaxed);
        }
    }

    pub(super) fn set(&self, index: usize, value: i64) {
        if let Some(cell) = cell(&self.cells, index) {
            cell.store(value, Ordering::Relaxed);
        }
    }
}

impl Gauges {
    /// Every value of the label, and its number now.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, i64)> {
        let numbers = self.cells.iter().map(|cell| cell.load(Ordering::Relaxed));
        self.values.iter().copied().zip(numbers)
    }
}

impl EncodeMetric for Gauges {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (value, cell) in self.values.iter().zip(&*self.cells) {
            let now = cell.load(Ordering::Relaxed);
            encoder
                .encode_family(&[(self.label, *value)])?
                .encode_gauge(&now)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

/// A histogram of whole numbers that is shown in another unit. Clones count together.
///
/// The library's own takes a lock for every observation.
#[derive(Clone, Debug)]
pub(super) struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    /// Upper bounds, rising; one bucket more for what is above all of them.
    bounds: &'static [u64],
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
    /// How many are one of the unit shown. Divided by, since 1e6 is exact and 1e-6 is not.
    per_unit: f64,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [u64], per_unit: f64) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::default()).collect();
        Self(Arc::new(Buckets {
            bounds,
            counts,
            sum: AtomicU64::default(),
            per_unit,
        }))
    }

    pub(super) fn observe(&self, value: u64) {
        let bucket = self.0.bounds.partition_point(|&bound| bound < value);
        self.0.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.0.sum.fetch_add(value, Ordering::Relaxed);
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let Buckets {
            bounds,
            counts,
            sum,
            per_unit,
        } = &*self.0;
        let bounds = bounds
            .iter()
            .map(|&bound| bound as f64 / per_unit)
            .chain([f64::INFINITY]);
        let counts = counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<_> = bounds.zip(counts).collect();
        // Not a counter of its own: it must be the sum of the buckets, or scrapers object.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = sum.load(Ordering::Relaxed) as f64 / per_unit;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// An index without a value is a mistake of ours that must not cost a connection.
fn cell<T>(cells: &[T], index: usize) -> Option<&T> {
    debug_assert!(index < cells.len(), "no label value has the index {index}");
    cells.get(index)
}
