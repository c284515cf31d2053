//! Choosing an endpoint.
//!
//! A [`Backend`] picks; what it hands out is a [`Lease`], which counts the connection on its
//! [`Endpoint`] until it is dropped. All state is atomics, so that any number of threads pick
//! from one backend at once and a new route table goes on counting where the old one stands.
//!
//! Nothing here probes endpoints: which ones are ready is Kubernetes' knowledge. One that does
//! not answer is left out of the same connection's next pick, through `tried`.

mod endpoint;
mod least;
mod maglev;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

pub(crate) use self::endpoint::EndpointPool;
pub use self::endpoint::{Endpoint, Lease};
use self::maglev::Maglev;
use crate::model::{BackendKey, Method};

/// A Service port with its endpoints and its way of choosing among them.
#[derive(Debug)]
pub struct Backend {
    /// Which Service port, and how it is balanced.
    pub key: BackendKey,
    /// Sorted by address, each address once: Maglev gives the same answer on another node only
    /// if that node fills its table in the same order.
    endpoints: Box<[Arc<Endpoint>]>,
    /// Where round robin stands. Shared with the backend's earlier and later versions.
    position: Arc<AtomicUsize>,
    /// Only filled for [`Method::SourceIpHash`].
    maglev: OnceLock<Maglev>,
}

impl Backend {
    /// `predecessor` is the backend of the same key in the table before; its position is kept.
    pub(crate) fn new(
        key: BackendKey,
        mut endpoints: Vec<Arc<Endpoint>>,
        predecessor: Option<&Self>,
    ) -> Self {
        endpoints.sort_by_key(|endpoint| endpoint.addr());
        endpoints.dedup_by_key(|endpoint| endpoint.addr());
        let backend = Self {
            key,
            endpoints: endpoints.into(),
            position: predecessor
                .map(|backend| Arc::clone(&backend.position))
                .unwrap_or_default(),
            maglev: OnceLock::new(),
        };
        // A small table costs the first connection that needs it 20 to 90 µs; a start with ten
        // thousand of them would take most of a second. A large one takes over 2 ms, too long
        // for a thread that carries connections.
        if backend.key.method == Method::SourceIpHash && backend.endpoints.len() > maglev::FEW {
            backend.maglev();
        }
        backend
    }

    /// The endpoints, sorted by address; empty where none is known or ready.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// Chooses an endpoint for a connection of `client`, never one of `tried`.
    ///
    /// `None` when nothing is left.
    pub fn pick(&self, client: IpAddr, tried: &[SocketAddr]) -> Option<Lease> {
        match (&*self.endpoints, self.key.method) {
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
fn usable(endpoint: &Endpoint, tried: &[SocketAddr]) -> bool {
    !tried.contains(&endpoint.addr())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::model::ObjectKey;

    #[test]
    fn round_robin_goes_around_when_nothing_was_tried() {
        let backend = backend(Method::RoundRobin, 3);
        let picked: Vec<_> = (0..6).map(|_| port(&backend, &[])).collect();
        assert_eq!(
            picked,
            [Some(0), Some(1), Some(2), Some(0), Some(1), Some(2)]
        );
    }

    #[test]
    fn no_method_picks_what_was_tried() {
        for method in METHODS {
            for count in [1, 2, 5, 200] {
                let backend = backend(method, count);
                let mut tried = Vec::new();
                while let Some(lease) = backend.pick(CLIENT, &tried) {
                    let addr = lease.endpoint().addr();
                    assert!(!tried.contains(&addr), "{method:?} picked {addr} twice");
                    tried.push(addr);
                }
                assert_eq!(tried.len(), usize::from(count), "{method:?} gave up early");
            }
        }
    }

    #[test]
    fn nothing_is_picked_when_there_is_no_endpoint() {
        for method in METHODS {
            assert!(backend(method, 0).pick(CLIENT, &[]).is_none());
        }
    }

    #[test]
    fn active_returns_to_zero_when_threads_drop_their_leases() {
        for method in METHODS {
            let backend = backend(method, 7);
            std::thread::scope(|scope| {
                for thread in 0..4u8 {
                    let backend = &backend;
                    scope.spawn(move || {
                        for turn in 0..500u16 {
                            let client = IpAddr::from([10, thread, (turn >> 8) as u8, turn as u8]);
                            let _lease = backend.pick(client, &[]).unwrap();
                        }
                    });
                }
            });
            let active: usize = backend.endpoints().iter().map(|e| e.active()).sum();
            let total: u64 = backend.endpoints().iter().map(|e| e.total()).sum();
            assert_eq!((active, total), (0, 2000), "{method:?}");
        }
    }

    #[test]
    fn same_client_meets_same_endpoint_when_hashed() {
        let one = backend(Method::SourceIpHash, 9);
        let other = backend(Method::SourceIpHash, 9);
        let mut seen = HashMap::<_, u32>::new();
        for last in 0..=255 {
            let client = IpAddr::from([192, 0, 2, last]);
            let picked = one.pick(client, &[]).unwrap().endpoint().addr();
            assert_eq!(other.pick(client, &[]).unwrap().endpoint().addr(), picked);
            let mapped = IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0200 | u16::from(last)]);
            assert_eq!(one.pick(mapped, &[]).unwrap().endpoint().addr(), picked);
            *seen.entry(picked).or_default() += 1;
        }
        assert_eq!(seen.len(), 9, "256 clients reach every endpoint: {seen:?}");
    }

    #[test]
    fn second_choice_is_the_same_when_the_first_was_tried() {
        let backend = backend(Method::SourceIpHash, 5);
        let first = backend.pick(CLIENT, &[]).unwrap().endpoint().addr();
        let second = backend.pick(CLIENT, &[first]).unwrap().endpoint().addr();
        assert_ne!(first, second);
        assert_eq!(
            backend.pick(CLIENT, &[first]).unwrap().endpoint().addr(),
            second
        );
    }

    fn backend(method: Method, endpoints: u16) -> Backend {
        let key = BackendKey {
            service: ObjectKey {
                namespace: "default".into(),
                name: "web".into(),
                ..ObjectKey::default()
            },
            port: "443".into(),
            method,
        };
        let mut pool = EndpointPool::default();
        let endpoints = (0..endpoints)
            .map(|port| pool.endpoint(&key, SocketAddr::from(([10, 0, 0, 1], port))))
            .collect();
        Backend::new(key, endpoints, None)
    }

    fn port(backend: &Backend, tried: &[SocketAddr]) -> Option<u16> {
        backend
            .pick(CLIENT, tried)
            .map(|lease| lease.endpoint().addr().port())
    }

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));
    const METHODS: [Method; 3] = [
        Method::RoundRobin,
        Method::LeastConnection,
        Method::SourceIpHash,
    ];
}
