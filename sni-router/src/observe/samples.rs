//! Metrics that are measured when somebody asks, since something else counts them already.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// A metric with all its time series at one moment.
#[derive(Clone, Debug)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    labels: Vec<Label>,
    value: Value,
}

/// The name of a label and its value.
pub type Label = (&'static str, Cow<'static, str>);

/// A number that is exact, or one that is not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Things counted.
    Count(u64),
    /// A measure.
    Measure(f64),
}

/// Measures. The answer has the same families every time, in the same order, some of them without a
/// time series.
pub type Sampler = Box<dyn Fn() -> Vec<Family> + Send + Sync>;

impl Family {
    /// One that only grows. Its name is without the `_total` that is shown.
    pub fn counter(name: &'static str, help: &'static str) -> Self {
        Self::new(name, help, MetricType::Counter)
    }

    /// One that goes up and down.
    pub fn gauge(name: &'static str, help: &'static str) -> Self {
        Self::new(name, help, MetricType::Gauge)
    }

    fn new(name: &'static str, help: &'static str, kind: MetricType) -> Self {
        Self {
            name,
            help,
            kind,
            samples: Vec::new(),
        }
    }

    /// Adds the time series of these labels, which must be another than those that are there.
    pub fn push(&mut self, labels: impl IntoIterator<Item = Label>, value: Value) {
        self.samples.push(Sample {
            labels: labels.into_iter().collect(),
            value,
        });
    }

    /// The same with the one time series that has no labels.
    pub fn with(mut self, value: Value) -> Self {
        self.push([], value);
        self
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor(self.name, self.help, None, self.kind)?;
        for Sample { labels, value } in &self.samples {
            if labels.is_empty() {
                self.encode_value(&mut family, *value)?;
            } else {
                self.encode_value(&mut family.encode_family(labels)?, *value)?;
            }
        }
        Ok(())
    }

    fn encode_value(&self, to: &mut MetricEncoder<'_>, value: Value) -> fmt::Result {
        match (self.kind, value) {
            (MetricType::Counter, Value::Count(count)) => {
                to.encode_counter::<NoLabelSet, _, u64>(&count, None)
            }
            (MetricType::Counter, Value::Measure(measure)) => {
                to.encode_counter::<NoLabelSet, _, u64>(&measure, None)
            }
            (_, Value::Count(count)) => to.encode_gauge(&count),
            (_, Value::Measure(measure)) => to.encode_gauge(&measure),
        }
    }
}

/// The metrics of a sampler, once there is one.
pub(super) struct Sampled(pub(super) Arc<OnceLock<Sampler>>);

impl fmt::Debug for Sampled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sampled")
    }
}

impl Collector for Sampled {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let families = self.0.get().map(|sample| sample()).unwrap_or_default();
        families
            .iter()
            .try_for_each(|family| family.encode(&mut encoder))
    }
}
