//! The endpoints of one cluster, and choosing among them.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::doubt::Doubt;
use super::endpoint::{Endpoint, EndpointPool, Lease};
use super::least;
use super::maglev::{self, Maglev};
use crate::model::{self, Method};

/// A Service port with its endpoints.
#[derive(Debug)]
pub(super) struct Share {
    /// Sorted by address, each address once: Maglev gives the same answer on another node only
    /// if that node fills its table in the same order.
    pub(super) endpoints: Box<[Arc<Endpoint>]>,
    pub(super) tier: u16,
    /// In relation to others of its tier.
    pub(super) weight: u64,
    pub(super) doubt: Arc<Doubt>,
    /// Where round robin stands. Shared with the share's earlier and later versions.
    position: Arc<AtomicUsize>,
    /// Only filled for [`Method::SourceIpHash`].
    maglev: Arc<OnceLock<Maglev>>,
}

/// Endpoints that a connection is not sent to. Few, so a scan beats a set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avoided<'a> {
    /// Those that this connection has failed at.
    pub(super) tried: &'a [SocketAddr],
    /// Those that get no new connections.
    pub(super) drained: &'a [SocketAddr],
}

impl Avoided<'_> {
    fn has(&self, endpoint: &Endpoint) -> bool {
        let addr = endpoint.addr();
        self.tried.contains(&addr) || self.drained.contains(&addr)
    }
}

impl Share {
    /// `predecessor` is the same share in the table before; its position is kept.
    pub(super) fn new(
        share: &model::Share,
        addrs: &[SocketAddr],
        method: Method,
        pool: &mut EndpointPool,
        predecessor: Option<&Self>,
    ) -> Self {
        let mut addrs = addrs.to_vec();
        addrs.sort_unstable();
        addrs.dedup();
        let (endpoints, doubt) = pool.endpoints(share, &addrs);
        let new = Self {
            tier: share.tier,
            weight: share.weight.map_or(endpoints.len() as u64, u64::from),
            endpoints: endpoints.into(),
            doubt,
            position: predecessor
                .map(|share| Arc::clone(&share.position))
                .unwrap_or_default(),
            maglev: Arc::default(),
        };
        // A small table costs the first connection that needs it 20 to 90 µs; a start with ten
        // thousand of them would take most of a second. A large one takes over 2 ms, too long
        // for a thread that carries connections.
        if method == Method::SourceIpHash && new.endpoints.len() > maglev::FEW {
            new.maglev();
        }
        new
    }

    /// One of its own that stands where this one does.
    pub(super) fn copied(&self) -> Self {
        let endpoints = self.endpoints.iter();
        Self {
            endpoints: endpoints.map(|it| Arc::new(it.copied())).collect(),
            tier: self.tier,
            weight: self.weight,
            doubt: Arc::new(self.doubt.copied()),
            position: Arc::new(self.position.load(Ordering::Relaxed).into()),
            maglev: Arc::clone(&self.maglev),
        }
    }

    /// Chooses an endpoint, never one that is `avoided`, and one that is in doubt only where no other
    /// is left, or to try it again.
    pub(super) fn pick(
        &self,
        method: Method,
        client: IpAddr,
        avoided: Avoided<'_>,
        now: Duration,
    ) -> Option<Lease> {
        if !self.has_left(avoided) {
            return None;
        }
        let is_left = |endpoint: &Endpoint| !avoided.has(endpoint);
        // Whether the whole is in doubt is best asked where nothing has failed yet: the pauses of
        // the endpoints that are away are over, too.
        if self.doubt.pause.is_on() {
            let is_fresh = |endpoint: &Endpoint| is_left(endpoint) && !endpoint.pause.is_on();
            let fresh = self.choose(method, client, is_fresh);
            if fresh.is_some() {
                return fresh;
            }
        }
        // Each turn ends with a choice, or with an endpoint that another connection is just
        // trying again.
        for _ in &self.endpoints {
            let is_good = |endpoint: &Endpoint| is_left(endpoint) && endpoint.pause.is_over(now);
            match self.choose(method, client, is_good) {
                Some(lease) if lease.endpoint().pause.try_again(now) => return Some(lease),
                Some(_) => {}
                None => break,
            }
        }
        self.choose(method, client, is_left)
    }

    /// One of those that `may` be chosen, by the method.
    fn choose(
        &self,
        method: Method,
        client: IpAddr,
        may: impl Fn(&Endpoint) -> bool,
    ) -> Option<Lease> {
        match (&*self.endpoints, method) {
            ([], _) => None,
            ([only], _) => may(only).then(|| Lease::new(only)),
            (_, Method::RoundRobin) => self.next_in_turn(may),
            (all, Method::LeastConnection) => least::pick(all, &self.position, may),
            // A walk around the table that finds nothing is long.
            (all, Method::SourceIpHash) if !all.iter().any(|endpoint| may(endpoint)) => None,
            (all, Method::SourceIpHash) => self
                .maglev()
                .candidates(client)
                .map(|index| &all[index])
                .find(|endpoint| may(endpoint))
                .map(Lease::new),
        }
    }

    /// Whether the connection has failed at one of its endpoints.
    pub(super) fn has_failed(&self, avoided: Avoided<'_>) -> bool {
        avoided.tried.iter().any(|addr| self.has(addr))
    }

    /// Whether it has an endpoint that is not `avoided`.
    pub(super) fn has_left(&self, avoided: Avoided<'_>) -> bool {
        // One that was drained after it was tried is not two.
        let drained = avoided.drained.iter();
        let others = drained.filter(|addr| !avoided.tried.contains(addr));
        let gone = avoided.tried.iter().chain(others);
        gone.filter(|addr| self.has(addr)).count() < self.endpoints.len()
    }

    /// Whether one that is left is not in doubt, or may be tried again.
    pub(super) fn has_good(&self, avoided: Avoided<'_>, now: Duration) -> bool {
        let mut endpoints = self.endpoints.iter();
        endpoints.any(|endpoint| !avoided.has(endpoint) && endpoint.pause.is_over(now))
    }

    fn has(&self, addr: &SocketAddr) -> bool {
        self.endpoints
            .binary_search_by_key(addr, |endpoint| endpoint.addr())
            .is_ok()
    }

    fn next_in_turn(&self, may: impl Fn(&Endpoint) -> bool) -> Option<Lease> {
        let count = self.endpoints.len();
        let mut turn = 0;
        // Whoever is passed over loses its turn, or the one behind it would have two.
        for _ in 0..count.min(TURNS) {
            turn = self.position.fetch_add(1, Ordering::Relaxed) % count;
            let endpoint = &self.endpoints[turn];
            if may(endpoint) {
                return Some(Lease::new(endpoint));
            }
        }
        let (before, after) = self.endpoints.split_at(turn);
        let mut others = after.iter().chain(before);
        others.find(|endpoint| may(endpoint)).map(Lease::new)
    }

    fn maglev(&self) -> &Maglev {
        self.maglev
            .get_or_init(|| Maglev::new(self.endpoints.iter().map(|endpoint| endpoint.addr())))
    }
}

/// So many turns may be lost, each of which is a write that other cores wait for.
const TURNS: usize = 16;
