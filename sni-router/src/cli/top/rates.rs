//! What happens a second: differences of counts.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::api::{Backend, EndpointState, Route, Status};
use crate::cli::admin::Admin;

/// What a router says at one moment.
pub struct Sample {
    pub at: Instant,
    pub status: Status,
    pub routes: Vec<Route>,
    pub backends: Vec<Backend>,
}

impl Sample {
    /// Asks.
    pub fn take(admin: &Admin) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            status: admin.get("/api/v1/status", &())?,
            routes: admin.get("/api/v1/routes", &())?,
            backends: admin.get("/api/v1/backends", &())?,
        })
    }
}

/// What happened between two moments, a second.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Rates {
    /// Connections that are not over.
    pub connections: usize,
    /// Connections accepted.
    pub opened: f64,
    /// Connections turned away.
    pub rejected: f64,
    /// The same by reason.
    pub rejects: BTreeMap<String, f64>,
    /// Bits from clients.
    pub bits_up: f64,
    /// Bits to clients.
    pub bits_down: f64,
    /// Connections that each datapath carries.
    pub carried: BTreeMap<String, i64>,
    /// Host patterns with what was opened, the busiest first.
    pub hosts: Vec<(String, f64)>,
    /// Endpoints with how often they were chosen; those that are not good first, then the busiest.
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint's part of it.
#[derive(Clone, Debug, Serialize)]
pub struct Endpoint {
    /// Its address and port.
    pub address: String,
    /// Whether it gets connections.
    pub state: EndpointState,
    /// Connections it has.
    pub active: usize,
    /// How often it was chosen.
    pub chosen: f64,
}

impl Rates {
    /// Counts that have become less are those of another process: nothing is known of them.
    pub fn between(before: &Sample, now: &Sample) -> Self {
        let seconds = now.at.duration_since(before.at).as_secs_f64().max(1e-3);
        let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        let (old, new) = (&before.status, &now.status);
        let rejects: BTreeMap<_, _> = new
            .rejects
            .iter()
            .map(|(reason, count)| {
                let before = old.rejects.get(reason).copied().unwrap_or(0);
                (reason.clone(), rate(before, *count))
            })
            .collect();
        Self {
            connections: new.connections,
            opened: rate(old.opened, new.opened),
            rejected: rejects.values().sum(),
            rejects,
            bits_up: 8.0 * rate(old.bytes_up, new.bytes_up),
            bits_down: 8.0 * rate(old.bytes_down, new.bytes_down),
            carried: new.carried.clone(),
            hosts: hosts(before, now, rate),
            endpoints: endpoints(before, now, rate),
        }
    }
}

fn hosts(before: &Sample, now: &Sample, rate: impl Fn(u64, u64) -> f64) -> Vec<(String, f64)> {
    let key = |route: &Route| (route.listener.clone(), route.pattern.clone());
    let old: HashMap<_, _> = before
        .routes
        .iter()
        .map(|it| (key(it), it.opened))
        .collect();
    let of = |route: &Route| {
        let before = old.get(&key(route)).copied().unwrap_or(route.opened);
        (route.pattern.clone(), rate(before, route.opened))
    };
    let mut hosts: Vec<_> = now.routes.iter().map(of).collect();
    hosts.sort_by(|a, b| b.1.total_cmp(&a.1));
    hosts.truncate(SHOWN);
    hosts
}

fn endpoints(before: &Sample, now: &Sample, rate: impl Fn(u64, u64) -> f64) -> Vec<Endpoint> {
    let all = |sample: &Sample| {
        let endpoints = sample.backends.iter().flat_map(|it| it.endpoints.clone());
        // One of several backends is one.
        let by_address = endpoints.map(|it| ((it.cluster.clone(), it.address.clone()), it));
        by_address.collect::<BTreeMap<_, _>>()
    };
    let old = all(before);
    let mut endpoints: Vec<_> = all(now)
        .into_iter()
        .map(|(key, it)| Endpoint {
            chosen: rate(old.get(&key).map_or(it.chosen, |old| old.chosen), it.chosen),
            address: it.address,
            state: it.state,
            active: it.active,
        })
        .collect();
    let is_good = |it: &Endpoint| it.state == EndpointState::Good;
    endpoints.sort_by(|a, b| {
        let order = is_good(a).cmp(&is_good(b));
        order
            .then(b.chosen.total_cmp(&a.chosen))
            .then(b.active.cmp(&a.active))
    });
    endpoints.truncate(SHOWN);
    endpoints
}

/// Hosts and endpoints, at most.
const SHOWN: usize = 50;
