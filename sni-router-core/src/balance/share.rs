//! The endpoints of one cluster, and choosing among them.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

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
    maglev: OnceLock<Maglev>,
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
            maglev: OnceLock::new(),
        };
        // A small table costs the first connection that needs it 20 to 90 µs; a start with ten
        // thousand of them would take most of a second. A large one takes over 2 ms, too long
        // for a thread that carries connections.
        if method == Method::SourceIpHash && new.endpoints.len() > maglev::FEW {
            new.maglev();
        }
        new
    }

    /// Chooses an endpoint, never one of `tried`.
    pub(super) fn pick(
        &self,
        method: Method,
        client: IpAddr,
        tried: &[SocketAddr],
    ) -> Option<Lease> {
        match (&*self.endpoints, method) {
            ([], _) => None,
            ([only], _) => usable(only, tried).then(|| Lease::new(only)),
            (_, Method::RoundRobin) => self.next_in_turn(tried),
            (all, Method::LeastConnection) => least::pick(all, &self.position, tried),
            (all, Method::SourceIpHash) => self
                .maglev()
                .candidates(client)
                .map(|index| &all[index])
                .find(|endpoint| usable(endpoint, tried))
                .map(Lease::new),
        }
    }

    /// How many of `tried` are its endpoints.
    pub(super) fn count(&self, tried: &[SocketAddr]) -> usize {
        let has = |addr| {
            self.endpoints
                .binary_search_by_key(addr, |endpoint| endpoint.addr())
                .is_ok()
        };
        tried.iter().filter(|addr| has(addr)).count()
    }

    fn next_in_turn(&self, tried: &[SocketAddr]) -> Option<Lease> {
        let turn = self.position.fetch_add(1, Ordering::Relaxed) % self.endpoints.len();
        let (before, after) = self.endpoints.split_at(turn);
        after
            .iter()
            .chain(before)
            .find(|endpoint| usable(endpoint, tried))
            .map(Lease::new)
    }

    fn maglev(&self) -> &Maglev {
        self.maglev
            .get_or_init(|| Maglev::new(self.endpoints.iter().map(|endpoint| endpoint.addr())))
    }
}

/// `tried` holds the few endpoints one connection has failed on, so a scan beats a set.
pub(super) fn usable(endpoint: &Endpoint, tried: &[SocketAddr]) -> bool {
    !tried.contains(&endpoint.addr())
}
