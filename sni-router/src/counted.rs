//! Counting what others tell: the bridge between them and `observe`, which do not know each other.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use sni_router_core::table::{Front, Route};

use crate::answers::Facts;
use crate::carry::{Decline, Kind};
use crate::observe::clusters::{ClusterMetrics, Clusters};
use crate::observe::metrics::{Labels, Metrics};
use crate::proxy::connect::ConnectFailure;
use crate::proxy::reason::CloseReason;
use crate::proxy::record::{Observer, Record};

/// An observer that counts.
pub struct Counted(pub Arc<Metrics>);

/// The labels of the counters, each list in the order of its enum's numbers. Made once a process.
pub fn labels() -> Labels {
    Labels {
        reasons: Vec::leak(CloseReason::ALL.map(CloseReason::as_str).to_vec()),
        datapaths: Vec::leak(Kind::ALL.map(Kind::as_str).to_vec()),
        declines: Vec::leak(Decline::ALL.map(Decline::as_str).to_vec()),
        connect_failures: Vec::leak(ConnectFailure::ALL.map(ConnectFailure::as_str).to_vec()),
    }
}

impl Observer for Counted {
    fn accepted(&self, listener: Option<&Front>) {
        self.0
            .listener(listener.map(|listener| &listener.key))
            .opened();
    }

    fn greeted(&self, took: Duration, size: usize) {
        self.0.hello(took, size);
    }

    fn routed(&self, route: &Route) {
        route.tally.opened();
    }

    fn adopted(&self) {
        self.0.adopted();
    }

    fn adopted_by(&self, listener: &Front) {
        self.0.listener(Some(&listener.key)).adopted();
    }

    fn connect_failed(&self, failure: ConnectFailure) {
        self.0.connect_failed(failure as usize);
    }

    fn connected(&self, took: Duration, retries: u32) {
        self.0.connected(took, retries);
    }

    fn carrying(&self, kind: Kind) {
        self.0.carrying(kind as usize);
    }

    fn carried(&self, kind: Kind) {
        self.0.carried(kind as usize);
    }

    fn declined(&self, decline: Decline) {
        self.0.declined(decline as usize);
    }

    fn closed(&self, record: &Record) {
        let listener = self.0.listener(
            record
                .connection
                .listener
                .as_ref()
                .map(|listener| &listener.key),
        );
        listener.closed(
            record.reason as usize,
            record.connection.datapath().map(|kind| kind as usize),
        );
        if let Some(route) = record.connection.route.get() {
            route.tally.closed(record.connection.datapath().is_some());
        }
    }
}

/// How the clusters fare, as metrics want it.
pub fn clusters(facts: Arc<Facts>) -> Clusters {
    Box::new(move || {
        let facts = facts().into_iter();
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
