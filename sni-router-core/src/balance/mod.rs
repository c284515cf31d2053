//! Choosing an endpoint.
//!
//! A [`Backend`] picks; what it hands out is a [`Lease`], which counts the connection on its
//! [`Endpoint`] until it is dropped. All state is atomics, so that any number of threads pick
//! from one backend at once and a new route table goes on counting where the old one stands.
//!
//! Nothing here probes endpoints: which ones are ready is Kubernetes' knowledge. One that does
//! not answer is left out of the same connection's next pick, through `tried`, and others pass it
//! over for a while; where several clusters have a host, the next pick is of another cluster, and
//! so is everybody's where a cluster goes on failing. One that is drained is left out as well, and
//! says nothing against its cluster.

mod clusters;
mod doubt;
mod endpoint;
mod least;
mod maglev;
mod share;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use self::clusters::Clusters;
pub(crate) use self::endpoint::EndpointPool;
pub use self::endpoint::{Connects, Endpoint, Lease, PLACES};
use self::share::{Avoided, Share};
use crate::model::{self, BackendKey};

/// Service ports of one or more clusters with their endpoints, and a way of choosing among them.
#[derive(Debug)]
pub struct Backend {
    /// Which Service ports, and how it is balanced.
    pub key: BackendKey,
    /// In the order of the key's.
    shares: Box<[Share]>,
    /// Counts choices of a cluster. Shared with the backend's earlier and later versions.
    turn: Arc<AtomicUsize>,
}

impl Backend {
    /// `predecessor` is the backend of the same key in the table before; its positions are kept.
    pub(crate) fn new(
        backend: &model::Backend,
        pool: &mut EndpointPool,
        predecessor: Option<&Self>,
    ) -> Self {
        let key = &backend.key;
        let shares = key.shares().iter().enumerate().map(|(index, share)| {
            let addrs = backend.endpoints.get(index).map_or(&[][..], Vec::as_slice);
            let before = predecessor.and_then(|backend| backend.shares.get(index));
            Share::new(share, addrs, key.method, pool, before)
        });
        Self {
            key: key.clone(),
            shares: shares.collect(),
            turn: predecessor
                .map(|backend| Arc::clone(&backend.turn))
                .unwrap_or_default(),
        }
    }

    /// The endpoints, a cluster after the other, of each sorted by address; none where none is
    /// known or ready.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> + Clone {
        self.shares.iter().flat_map(|share| &share.endpoints)
    }

    /// How many endpoints there are.
    pub fn endpoint_count(&self) -> usize {
        self.shares.iter().map(|share| share.endpoints.len()).sum()
    }

    /// Chooses an endpoint for a connection of `client`, never one of `tried`, at which it has
    /// failed. `now` is the time since any moment that stays the same.
    ///
    /// `None` when nothing is left.
    pub fn pick(&self, client: IpAddr, tried: &[SocketAddr], now: Duration) -> Option<Lease> {
        self.pick_undrained(client, tried, &[], now)
    }

    /// Like [`Self::pick`], and never one of `drained`, which get no new connections of anybody.
    pub fn pick_undrained(
        &self,
        client: IpAddr,
        tried: &[SocketAddr],
        drained: &[SocketAddr],
        now: Duration,
    ) -> Option<Lease> {
        let avoided = Avoided { tried, drained };
        let share = match &*self.shares {
            [only] => only,
            shares => Clusters {
                keys: self.key.shares(),
                shares,
                method: self.key.method,
                turn: &self.turn,
            }
            .choose(client, avoided, now)?,
        };
        let lease = share.pick(self.key.method, client, avoided, now)?;
        lease.endpoint().handed_out();
        Some(lease)
    }

    /// The endpoint that a new connection would get now from [`Self::pick_undrained`], without
    /// choosing it: nothing is counted, and nobody's turn is taken. Costs a copy of what is known of
    /// every endpoint.
    pub fn preview(
        &self,
        client: IpAddr,
        drained: &[SocketAddr],
        now: Duration,
    ) -> Option<SocketAddr> {
        let copied = Self {
            key: self.key.clone(),
            shares: self.shares.iter().map(Share::copied).collect(),
            turn: Arc::new(self.turn.load(Ordering::Relaxed).into()),
        };
        let lease = copied.pick_undrained(client, &[], drained, now)?;
        Some(lease.endpoint().addr())
    }

    /// A connect to an endpoint of this backend succeeded, and took so long.
    pub fn record_success(&self, endpoint: &Endpoint, took: Duration) {
        endpoint.succeeded(took);
        if let Some(share) = self.share_of(endpoint) {
            share.doubt.succeeded();
        }
    }

    /// A connect to an endpoint of this backend was refused, timed out or failed otherwise, and
    /// not because of this host. `now` is as in [`Self::pick`].
    pub fn record_failure(&self, endpoint: &Endpoint, now: Duration) {
        let is_news = endpoint.failed(now);
        if let Some(share) = self.share_of(endpoint) {
            let all = share.endpoints.iter().all(|other| other.pause.is_on());
            share.doubt.failed(is_news, all, now);
        }
    }

    /// The share of the endpoint's cluster.
    fn share_of(&self, endpoint: &Endpoint) -> Option<&Share> {
        let is_its = |key: &model::Share| key.service.cluster == *endpoint.cluster();
        let index = self.key.shares().iter().position(is_its)?;
        self.shares.get(index)
    }
}
