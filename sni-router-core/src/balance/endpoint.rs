//! Endpoints and what is known of them while they serve.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use foldhash::fast::RandomState;

use super::doubt::{Doubt, Pause};
use crate::model::{Cluster, ObjectKey, Share};

/// One address of a Service port.
///
/// The backends of one Service port share it whatever their method, and so do the route tables
/// that follow one another, so its counts are those of this router, not of one configuration.
#[derive(Debug)]
pub struct Endpoint {
    addr: SocketAddr,
    cluster: Cluster,
    active: AtomicUsize,
    total: AtomicU64,
    connects: ConnectCounts,
    /// Counts the same of all those that are too many.
    others: Option<Arc<ConnectCounts>>,
    /// In doubt since a connect failed.
    pub(super) pause: Pause,
}

impl Endpoint {
    /// Where to connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The cluster it is in.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Leases held now: connections that are being opened or carried.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Leases ever handed out.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Connects, as told by [`Backend::record_success`](super::Backend::record_success) and
    /// [`Backend::record_failure`](super::Backend::record_failure).
    pub fn connects(&self) -> Connects {
        self.connects.read()
    }

    /// Whether nothing has succeeded since the last connect that failed: others are preferred.
    pub fn is_failing(&self) -> bool {
        self.pause.is_on()
    }

    /// One of its own that stands where this one does.
    pub(super) fn copied(&self) -> Self {
        Self {
            active: self.active().into(),
            pause: self.pause.copied(),
            ..Self::new(self.addr, &self.cluster, None)
        }
    }

    /// Whether it is one of the first [`PLACES`], which metrics tell one by one.
    pub fn is_counted_alone(&self) -> bool {
        self.others.is_none()
    }

    pub(super) fn succeeded(&self, took: Duration) {
        for connects in [&self.connects].into_iter().chain(self.others.as_deref()) {
            connects.succeeded(took);
        }
        self.pause.end();
    }

    /// Whether it was not in doubt before.
    pub(super) fn failed(&self, now: Duration) -> bool {
        for connects in [&self.connects].into_iter().chain(self.others.as_deref()) {
            connects.failures.fetch_add(1, Ordering::Relaxed);
        }
        self.pause.begin(now)
    }

    pub(super) fn handed_out(&self) {
        self.total.fetch_add(1, Ordering::Relaxed);
    }

    fn new(addr: SocketAddr, cluster: &Cluster, others: Option<&Arc<ConnectCounts>>) -> Self {
        Self {
            addr,
            cluster: cluster.clone(),
            active: AtomicUsize::new(0),
            total: AtomicU64::new(0),
            connects: ConnectCounts::default(),
            others: others.map(Arc::clone),
            pause: Pause::default(),
        }
    }
}

/// How connecting went, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connects {
    /// Connects that succeeded.
    pub successes: u64,
    /// Connects that failed, and not because of this host.
    pub failures: u64,
    /// How long those took that succeeded, all together.
    pub took: Duration,
}

#[derive(Debug, Default)]
struct ConnectCounts {
    successes: AtomicU64,
    failures: AtomicU64,
    took_us: AtomicU64,
}

impl ConnectCounts {
    fn succeeded(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.took_us.fetch_add(us, Ordering::Relaxed);
        self.successes.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> Connects {
        Connects {
            successes: self.successes.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            took: Duration::from_micros(self.took_us.load(Ordering::Relaxed)),
        }
    }
}

/// A connection's claim on its endpoint, counted in [`Endpoint::active`] until it is dropped.
#[derive(Debug)]
pub struct Lease(Arc<Endpoint>);

impl Lease {
    /// The endpoint that was picked.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }

    pub(super) fn new(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.active.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(endpoint))
    }

    /// Like [`Self::new`], but only if `active` still is what the choice was based on.
    pub(super) fn new_if_active_is(endpoint: &Arc<Endpoint>, active: usize) -> Option<Self> {
        endpoint
            .active
            .compare_exchange(active, active + 1, Ordering::Relaxed, Ordering::Relaxed)
            .ok()
            .map(|_| Self(Arc::clone(endpoint)))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Finds the endpoint object of an address, so that there is never a second one in use.
///
/// It only knows endpoints, it does not keep them: one that left every table lives on in the
/// leases of its last connections, and is found here if it comes back before they end.
#[derive(Debug, Default)]
pub(crate) struct EndpointPool {
    services: HashMap<ServicePort, Known, RandomState>,
    /// How many are counted alone.
    alone: usize,
    /// Of all that are not.
    others: Arc<ConnectCounts>,
}

/// What is known of a Service port.
#[derive(Debug, Default)]
struct Known {
    endpoints: HashMap<SocketAddr, Weak<Endpoint>, RandomState>,
    doubt: Arc<Doubt>,
}

impl EndpointPool {
    /// What of `previous` is still in use.
    pub(crate) fn carried_from(previous: &Self) -> Self {
        let alive = |known: &Known| Known {
            endpoints: known
                .endpoints
                .iter()
                .filter(|(_, endpoint)| endpoint.strong_count() > 0)
                .map(|(addr, endpoint)| (*addr, Weak::clone(endpoint)))
                .collect(),
            doubt: Arc::clone(&known.doubt),
        };
        let alone = previous.alive().filter(|(_, _, it)| it.is_counted_alone());
        Self {
            services: previous
                .services
                .iter()
                .map(|(service, known)| (service.clone(), alive(known)))
                .filter(|(_, known)| !known.endpoints.is_empty())
                .collect(),
            alone: alone.count(),
            others: Arc::clone(&previous.others),
        }
    }

    /// Those in use, with their Service and port.
    pub(crate) fn alive(&self) -> impl Iterator<Item = (&ObjectKey, &str, Arc<Endpoint>)> {
        self.services.iter().flat_map(|(service, known)| {
            let endpoints = known.endpoints.values().filter_map(Weak::upgrade);
            endpoints.map(move |endpoint| (&service.service, &*service.port, endpoint))
        })
    }

    /// Connects to those that are not counted alone.
    pub(crate) fn other_connects(&self) -> Connects {
        self.others.read()
    }

    /// The endpoints `addrs` of a Service port, new where they are not in use, and what doubt
    /// there is about all of them.
    pub(super) fn endpoints(
        &mut self,
        share: &Share,
        addrs: &[SocketAddr],
    ) -> (Vec<Arc<Endpoint>>, Arc<Doubt>) {
        let service = ServicePort {
            service: share.service.clone(),
            port: share.port.clone(),
        };
        let Self {
            services,
            alone,
            others,
        } = self;
        let known = services.entry(service).or_default();
        let of = |addr: &SocketAddr| {
            let slot = known.endpoints.entry(*addr).or_default();
            slot.upgrade().unwrap_or_else(|| {
                let others = (*alone >= PLACES).then_some(&*others);
                *alone += usize::from(others.is_none());
                let endpoint = Endpoint::new(*addr, &share.service.cluster, others);
                let endpoint = Arc::new(endpoint);
                *slot = Arc::downgrade(&endpoint);
                endpoint
            })
        };
        let endpoints = addrs.iter().map(of).collect();
        (endpoints, Arc::clone(&known.doubt))
    }
}

/// A [`Share`] without its place among others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ServicePort {
    service: ObjectKey,
    port: String,
}

/// Endpoints that are counted one by one: first come, first served.
pub const PLACES: usize = 1_000;
