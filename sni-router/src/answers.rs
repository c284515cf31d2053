//! What the admin API says of all parts together: they do not know each other.

mod connections;
mod explain;
mod kernel;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::stream::BoxStream;
use sni_router_core::balance::Backend as Balanced;
use sni_router_core::model::Method;
use sni_router_core::problem::{Problem as Found, Severity};
use sni_router_core::table::{Front, Listener as Compiled, RouteTable};
use tokio::sync::oneshot;

use crate::api::{
    Backend, Config, Connection, ConnectionQuery, Drain, Drained, Endpoint, EndpointState,
    Explanation, Kernel, Listener, Page, Problem, Question, Route, Status, Step, TraceQuery,
};
use crate::carry::Kind;
use crate::control::Applied;
use crate::datapath::bpf::{Counters, KernelFacts};
use crate::datapath::choose::SelfTest;
use crate::datapath::fill::Fill;
use crate::listen::Unbound;
use crate::measured::Bytes;
use crate::observe::admin::{Answers, Refused};
use crate::observe::log::Filter;
use crate::observe::metrics::Metrics;
use crate::proxy::census::Census;
use crate::proxy::gate::Gate;
use crate::proxy::reason::CloseReason;
use crate::proxy::trace::Trace;
use crate::source::Reload;
use crate::source::directory::Unread;
use crate::source::kubernetes::ClusterFacts;

/// Asks how the clusters fare; there are none where manifests are files.
pub type Facts = dyn Fn() -> Vec<ClusterFacts> + Send + Sync;

/// What answers are made of.
pub struct Inside {
    /// When the process began to serve.
    pub started: Instant,
    /// Where manifests come from, for people.
    pub source: String,
    /// Why they cannot be read, while that is so.
    pub unread: Arc<Unread>,
    /// What is served.
    pub table: Arc<ArcSwap<RouteTable>>,
    /// Who is connected.
    pub census: Arc<Census>,
    /// What single connections go through.
    pub trace: Arc<Trace>,
    /// Who is let in.
    pub gate: Arc<Gate>,
    /// What could not be bound.
    pub unbound: Arc<Unbound>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Bytes carried.
    pub bytes: Bytes,
    /// How clusters fare.
    pub clusters: Arc<Facts>,
    /// The best datapath there is.
    pub datapath: &'static str,
    /// Why there is no better one.
    pub declined: Option<String>,
    /// What the start has found out about each datapath.
    pub self_tests: [(Kind, SelfTest); 3],
    /// How full its maps are.
    pub fill: Fill,
    /// What there is in the kernel, where there is anything.
    pub kernel: Option<(Arc<KernelFacts>, Arc<Counters>)>,
    /// Has manifests read again.
    pub reload: Reload,
    /// What is logged.
    pub log: Filter,
    /// What became of the newest manifests.
    pub outcome: Arc<Outcome>,
}

/// What became of the newest manifests.
#[derive(Debug, Default)]
pub struct Outcome {
    applied: ArcSwapOption<(SystemTime, Vec<Found>)>,
    is_refused: AtomicBool,
}

impl Outcome {
    /// They were read.
    pub fn note(&self, applied: &Applied) {
        self.is_refused.store(!applied.is_served, Ordering::Relaxed);
        if applied.is_served {
            let problems = applied.build.problems.clone();
            self.applied
                .store(Some(Arc::new((SystemTime::now(), problems))));
        }
    }
}

impl Inside {
    fn listener(&self, listener: &Compiled) -> Listener {
        let front = &listener.front;
        let counts = self.metrics.listener(Some(&front.key));
        Listener {
            name: front.key.to_string(),
            vips: front.vips.iter().map(ToString::to_string).collect(),
            port: front.port,
            routes: listener.routes().len(),
            opened: counts.opened_so_far(),
            active: counts.active(),
            draining: self.gate.drains_listener(&front.key),
            unbound: self.unbound(front),
        }
    }

    fn unbound(&self, front: &Front) -> Vec<String> {
        let unbound = self.unbound.load();
        let sockets = front.vips.iter().flat_map(|vip| vip.sockets(front.port));
        let missing = sockets.filter(|addr| unbound.contains(addr));
        missing.map(|addr| addr.to_string()).collect()
    }

    fn backend(&self, backend: &Balanced) -> Backend {
        let draining = self.gate.drained_endpoints();
        let endpoints = backend.endpoints().map(|endpoint| Endpoint {
            address: endpoint.addr().to_string(),
            cluster: endpoint.cluster().as_str().to_owned(),
            state: match endpoint.is_failing() {
                _ if draining.contains(&endpoint.addr()) => EndpointState::Draining,
                true => EndpointState::Failing,
                false => EndpointState::Good,
            },
            active: endpoint.active(),
            chosen: endpoint.total(),
            connected: endpoint.connects().successes,
            failed: endpoint.connects().failures,
        });
        Backend {
            name: backend.key.to_string(),
            method: method_name(backend.key.method).to_owned(),
            endpoints: endpoints.collect(),
        }
    }
}

impl Answers for Inside {
    fn status(&self) -> Status {
        let (bytes_up, bytes_down) = self.bytes.both_ways();
        let counters = self.kernel.as_ref().map(|(_, counters)| counters);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            generation: self.table.load().generation(),
            connections: self.census.count(),
            opened: self.metrics.opened_so_far(),
            closed: named(self.metrics.closed_so_far()),
            rejects: named(
                self.metrics
                    .closed_so_far()
                    .filter(|(label, _)| is_reject(label)),
            ),
            bytes_up,
            bytes_down,
            datapath: self.datapath.to_owned(),
            declined: self.declined.clone(),
            self_tests: kernel::self_tests(self),
            programs: kernel::programs(self),
            carried: named(self.metrics.active()),
            declines: named(self.metrics.declines()),
            listeners: self.listeners(),
            clusters: (self.clusters)().iter().map(kernel::cluster).collect(),
            kernel: counters.map(|counters| kernel::counts(counters)),
        }
    }

    fn listeners(&self) -> Vec<Listener> {
        let table = self.table.load();
        let mut all: Vec<_> = table.listeners().map(|it| self.listener(it)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn routes(&self) -> Vec<Route> {
        let table = self.table.load();
        let of = |listener: &Arc<Compiled>| {
            let name = listener.front.key.to_string();
            let routes = listener.routes().map(move |route| Route {
                listener: name.clone(),
                pattern: route.pattern.to_string(),
                origin: route.origin.to_string(),
                backend: route.backend.key.to_string(),
                opened: route.tally.counts().opened,
                active: route.tally.counts().active(),
            });
            routes.collect::<Vec<_>>()
        };
        table.listeners().flat_map(of).collect()
    }

    fn backends(&self) -> Vec<Backend> {
        let table = self.table.load();
        let mut all: Vec<_> = table.backends().map(|it| self.backend(it)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn problems(&self) -> Vec<Problem> {
        let applied = self.outcome.applied.load();
        let problems = applied.iter().flat_map(|applied| &applied.1);
        problems
            .map(|problem| Problem {
                severity: problem.severity.to_string(),
                reason: problem.reason.as_str().to_owned(),
                object: problem.object.to_string(),
                path: problem.path.clone(),
                what: problem.what.clone(),
                hint: problem.hint.clone(),
                at: problem.at.as_ref().map(ToString::to_string),
            })
            .collect()
    }

    fn config(&self) -> Config {
        let table = self.table.load();
        let applied = self.outcome.applied.load();
        let count = |severity| {
            let problems = applied.iter().flat_map(|applied| &applied.1);
            problems
                .filter(|problem| problem.severity == severity)
                .count()
        };
        let at = applied.as_ref().map(|applied| applied.0);
        Config {
            source: self.source.clone(),
            generation: table.generation(),
            applied_at: at.map(|at| humantime::format_rfc3339_millis(at).to_string()),
            refused: self.outcome.is_refused.load(Ordering::Relaxed),
            unread: self.unread.load().as_deref().cloned(),
            listeners: table.listeners().len(),
            routes: table.listeners().map(|it| it.routes().len()).sum(),
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
            notes: count(Severity::Note),
        }
    }

    fn kernel(&self) -> Kernel {
        kernel::kernel(self)
    }

    fn connections(&self, query: &ConnectionQuery) -> Result<Page, Refused> {
        connections::page(&self.census, query)
    }

    fn connection(&self, id: u64) -> Result<Connection, Refused> {
        connections::one(&self.census, id)
    }

    fn explain(&self, question: &Question) -> Result<Vec<Explanation>, Refused> {
        explain::explain(self, question)
    }

    fn trace(&self, query: &TraceQuery) -> Result<BoxStream<'static, Step>, Refused> {
        connections::trace(&self.trace, query)
    }

    fn close(&self, id: u64) -> Result<(), Refused> {
        connections::close(&self.census, id)
    }

    fn close_all(&self, query: &ConnectionQuery) -> Result<usize, Refused> {
        connections::close_all(&self.census, query)
    }

    fn drain(&self, what: &Drain, begin: bool) -> Result<Drained, Refused> {
        match (&what.listener, &what.endpoint) {
            (Some(name), None) => self.drain_listener(name, begin),
            (None, Some(addr)) => self.drain_endpoint(addr, begin),
            _ => Err(Refused::Nonsense(
                "name either a listener or an endpoint".into(),
            )),
        }
    }

    fn reload(&self) -> oneshot::Receiver<()> {
        self.reload.ask()
    }

    fn log(&self, filter: &str) -> Result<(), Refused> {
        let changed = self.log.change(filter);
        changed.map_err(|error| Refused::Nonsense(error.to_string()))
    }
}

impl Inside {
    fn drain_listener(&self, name: &str, begin: bool) -> Result<Drained, Refused> {
        let table = self.table.load();
        let mut served = table.listeners().map(|listener| &listener.front.key);
        let draining = self.gate.drained_listeners();
        let key = served
            .find(|key| key.to_string() == name)
            // One that is not served any more must be found to be forgotten.
            .or_else(|| draining.iter().find(|key| key.to_string() == name));
        let Some(key) = key else {
            let error = format!(
                "no Listener {name:?} is served; `sni-router listeners` has those that are"
            );
            return Err(Refused::NotFound(error));
        };
        Ok(Drained {
            changed: self.gate.drain_listener(key, begin),
            connections: self.census.count_of(|it| {
                it.listener
                    .as_ref()
                    .is_some_and(|listener| listener.key == *key)
            }),
        })
    }

    fn drain_endpoint(&self, text: &str, begin: bool) -> Result<Drained, Refused> {
        let addr: SocketAddr = text.parse().map_err(|_| {
            Refused::Nonsense(format!(
                "endpoint {text:?} is no address and port, as 10.0.0.1:8443"
            ))
        })?;
        let table = self.table.load();
        let is_known = table
            .backends()
            .any(|backend| backend.endpoints().any(|endpoint| endpoint.addr() == addr));
        // One that is away just now may come back, and must be found to be forgotten.
        if !is_known && !self.gate.drained_endpoints().contains(&addr) {
            let error = format!(
                "no route leads to an endpoint {addr}; `sni-router backends` has those there are"
            );
            return Err(Refused::NotFound(error));
        }
        Ok(Drained {
            changed: self.gate.drain_endpoint(addr, begin),
            connections: self.census.count_of(|it| it.endpoint() == Some(addr)),
        })
    }
}

/// Whether that is the label of a reason to turn clients away.
fn is_reject(label: &str) -> bool {
    let mut rejects = CloseReason::ALL.iter().filter(|reason| reason.is_reject());
    rejects.any(|reason| reason.as_str() == label)
}

/// Those that are not zero.
fn named<N: Default + PartialEq>(
    counts: impl Iterator<Item = (&'static str, N)>,
) -> BTreeMap<String, N> {
    counts
        .filter(|(_, count)| *count != N::default())
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
}

/// For people.
pub fn method_name(method: Method) -> &'static str {
    match method {
        Method::RoundRobin => "round robin",
        Method::LeastConnection => "least connections",
        Method::SourceIpHash => "hash of the client's address",
    }
}
