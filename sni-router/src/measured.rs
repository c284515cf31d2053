//! What is measured at every scrape: the bridge between `observe` and those who count for their own
//! purposes.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use sni_router_common::counter::Counter;
use sni_router_core::balance::{Connects, Endpoint};
use sni_router_core::table::{Counts, RouteTable};

use crate::carry::{Direction, Kind};
use crate::datapath::bpf::Counters;
use crate::datapath::fill::Fill;
use crate::listen::Unbound;
use crate::meter::Meter;
use crate::observe::log::lost_access_lines;
use crate::observe::samples::{Family, Label, Sampler, Value};
use crate::proxy::Proxy;
use crate::source::directory::Unread;
use crate::source::dns::Lookups;

/// Who knows.
pub struct Measured {
    /// Has the routes and endpoints.
    pub table: Arc<ArcSwap<RouteTable>>,
    /// Bytes carried.
    pub bytes: Bytes,
    /// What the kernel programs do.
    pub counters: Option<Arc<Counters>>,
    /// How full the kernel's maps are.
    pub fill: Fill,
    /// Has the hellos that are waited for. Not owned, since it owns the metrics.
    pub proxy: Weak<Proxy>,
    /// How look-ups of external names go.
    pub lookups: Arc<Lookups>,
    /// Why manifests cannot be read.
    pub unread: Arc<Unread>,
    /// What could not be bound.
    pub unbound: Arc<Unbound>,
}

/// Bytes carried so far, whoever has moved them.
#[derive(Clone)]
pub struct Bytes {
    /// Has those that this process moves.
    pub meter: Meter,
    /// Have those that the kernel moves.
    pub counters: Option<Arc<Counters>>,
}

impl Bytes {
    /// Of connections of a datapath.
    pub fn total(&self, kind: Kind, direction: Direction) -> u64 {
        let by_kernel = match (&self.counters, kernel_bytes(kind, direction)) {
            (Some(counters), Some(counter)) => counters.read(counter),
            _ => 0,
        };
        self.meter.total(kind, direction) + by_kernel
    }

    /// Of all connections: from clients, to them.
    pub fn both_ways(&self) -> (u64, u64) {
        let of = |direction| {
            Kind::ALL
                .map(|kind| self.total(kind, direction))
                .iter()
                .sum()
        };
        (of(Direction::Up), of(Direction::Down))
    }
}

impl Measured {
    /// Measures all of it.
    pub fn sampler(self) -> Sampler {
        Box::new(move || {
            let mut families = vec![self.carried()];
            families.extend(self.hosts());
            families.extend(self.endpoints());
            families.extend(self.pending());
            families.push(self.kernel());
            families.extend(self.maps());
            families.extend(self.others());
            families
        })
    }

    fn carried(&self) -> Family {
        let mut bytes = Family::counter(
            "bytes",
            "Bytes carried, up from clients and down to them, while connections live",
        );
        for kind in Kind::ALL {
            for direction in [Direction::Up, Direction::Down] {
                let total = self.bytes.total(kind, direction);
                let labels = [
                    label("datapath", kind.as_str()),
                    label("direction", name(direction)),
                ];
                bytes.push(labels, Value::Count(total));
            }
        }
        bytes
    }

    fn hosts(&self) -> [Family; 2] {
        let mut opened = Family::counter(
            "host_connections_opened",
            "Connections that took a route, by its listener and host pattern",
        );
        let mut closed = Family::counter(
            "host_connections_closed",
            "Connections that took a route and have ended, having been carried or not",
        );
        let table = self.table.load();
        let named = table.counts().map(|(route, counts)| match route {
            Some((listener, pattern)) => (listener.to_string(), pattern.to_string(), counts),
            None => (String::new(), OTHER.to_owned(), counts),
        });
        let mut all: Vec<(String, String, Counts)> = named.collect();
        all.sort_unstable_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        for (listener, host, counts) in all {
            let route = [label("listener", listener), label("host", host)];
            let of = |outcome: &'static str| {
                route.clone().into_iter().chain([label("outcome", outcome)])
            };
            closed.push(of("carried"), Value::Count(counts.carried));
            closed.push(of("failed"), Value::Count(counts.failed));
            opened.push(route, Value::Count(counts.opened));
        }
        [opened, closed]
    }

    fn endpoints(&self) -> Vec<Family> {
        let table = self.table.load();
        let mut alone = Vec::new();
        let mut others = Known::default();
        for (service, port, endpoint) in table.endpoints() {
            if endpoint.is_counted_alone() {
                let known = Known::of(&endpoint);
                alone.push((
                    format!("{service}:{port}"),
                    endpoint.addr().to_string(),
                    known,
                ));
            } else {
                others.active += endpoint.active();
                others.in_doubt += usize::from(endpoint.is_failing());
            }
        }
        alone.sort_unstable_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        others.connects = table.other_connects();
        alone.push((String::new(), OTHER.to_owned(), others));
        as_families(alone)
    }

    fn pending(&self) -> [Family; 2] {
        let proxy = self.proxy.upgrade();
        let (now, most) = proxy
            .map(|proxy| proxy.pending_hellos())
            .unwrap_or_default();
        [
            Family::gauge(
                "hellos_pending",
                "Connections whose hello is not complete yet",
            )
            .with(Value::Count(now as u64)),
            Family::gauge(
                "hellos_pending_limit",
                "How many there may be; further connections are refused",
            )
            .with(Value::Count(most as u64)),
        ]
    }

    fn kernel(&self) -> Family {
        let mut events = Family::counter(
            "kernel_events",
            "What the kernel programs did: connections, packets, buffers or events",
        );
        if let Some(counts) = self.counters.as_deref().map(Counters::all) {
            for counter in Counter::ALL.into_iter().filter(|it| !it.is_bytes()) {
                let (program, event) = counter.as_str().split_once('_').unwrap_or_default();
                let labels = [label("program", program), label("event", event)];
                events.push(labels, Value::Count(counts[counter as usize]));
            }
        }
        events
    }

    fn maps(&self) -> [Family; 2] {
        let mut entries = Family::gauge("map_entries", "Entries in maps of the kernel programs");
        let mut capacity = Family::gauge("map_capacity", "Entries that there is room for");
        for fill in self.fill.maps() {
            let labels = [label("map", fill.map)];
            entries.push(labels.clone(), Value::Count(fill.entries));
            capacity.push(labels, Value::Count(fill.capacity.into()));
        }
        [entries, capacity]
    }

    fn others(&self) -> [Family; 4] {
        let mut lookups = Family::counter(
            "dns_lookups",
            "Look-ups of the external names of backends, by what came of them",
        );
        for (result, count) in [
            ("answered", &self.lookups.answered),
            ("failed", &self.lookups.failed),
        ] {
            let count = count.load(Ordering::Relaxed);
            lookups.push([label("result", result)], Value::Count(count));
        }
        let lost = Family::counter(
            "access_lines_lost",
            "Lines of the access log that came faster than they were written, or could not be written",
        )
        .with(Value::Count(lost_access_lines()));
        let unbound = Family::gauge(
            "listener_addresses_unbound",
            "Addresses of listeners that cannot be bound, and are tried again",
        )
        .with(Value::Count(self.unbound.load().len() as u64));
        let unread = Family::gauge(
            "manifests_unread",
            "Whether the directory of manifests cannot be read, and what it said last is in force",
        )
        .with(Value::Count(self.unread.load().is_some().into()));
        [lookups, lost, unbound, unread]
    }
}

/// What is known of an endpoint, or of many.
#[derive(Default)]
struct Known {
    active: usize,
    in_doubt: usize,
    connects: Connects,
}

impl Known {
    fn of(endpoint: &Endpoint) -> Self {
        Self {
            active: endpoint.active(),
            in_doubt: usize::from(endpoint.is_failing()),
            connects: endpoint.connects(),
        }
    }
}

/// Each by Service and address.
fn as_families(endpoints: Vec<(String, String, Known)>) -> Vec<Family> {
    let mut active = Family::gauge(
        "endpoint_connections_active",
        "Connections that an endpoint has, those that are being opened included",
    );
    let mut in_doubt = Family::gauge(
        "endpoint_in_doubt",
        "Whether an endpoint is passed over, since the last connect to it failed",
    );
    let mut connects = Family::counter(
        "endpoint_connects",
        "Connects to an endpoint, by what came of them",
    );
    let mut seconds = Family::counter(
        "endpoint_connect_seconds",
        "Time that the connects took which succeeded, all together",
    );
    for (service, address, known) in endpoints {
        let endpoint = [label("service", service), label("endpoint", address)];
        active.push(endpoint.clone(), Value::Count(known.active as u64));
        in_doubt.push(endpoint.clone(), Value::Count(known.in_doubt as u64));
        for (result, count) in [
            ("connected", known.connects.successes),
            ("failed", known.connects.failures),
        ] {
            let labels = endpoint
                .clone()
                .into_iter()
                .chain([label("result", result)]);
            connects.push(labels, Value::Count(count));
        }
        seconds.push(endpoint, Value::Measure(known.connects.took.as_secs_f64()));
    }
    vec![active, in_doubt, connects, seconds]
}

/// Which counter of the kernel has a datapath's bytes.
fn kernel_bytes(kind: Kind, direction: Direction) -> Option<Counter> {
    match (kind, direction) {
        (Kind::Userspace, _) => None,
        (Kind::Sockmap, Direction::Up) => Some(Counter::VerdictBytesUp),
        (Kind::Sockmap, Direction::Down) => Some(Counter::VerdictBytesDown),
        (Kind::Tc, Direction::Up) => Some(Counter::TcBytesUp),
        (Kind::Tc, Direction::Down) => Some(Counter::TcBytesDown),
    }
}

fn name(direction: Direction) -> &'static str {
    match direction {
        Direction::Up => "up",
        Direction::Down => "down",
    }
}

fn label(name: &'static str, value: impl Into<Cow<'static, str>>) -> Label {
    (name, value.into())
}

/// All that have no place of their own. No host pattern of a route: those come with a listener.
const OTHER: &str = "other";

#[cfg(test)]
mod tests;
