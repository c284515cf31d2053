//! The route table: the model compiled for look-ups.
//!
//! A table never changes. A new configuration is a new table, which takes over what its
//! predecessor knows of endpoints and backends that go on, so that no running connection is
//! forgotten. Look-ups allocate nothing and take no lock.

mod listener;
mod tally;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use foldhash::fast::RandomState;

pub use self::listener::{Front, Listener, Route};
pub use self::tally::{Counts, PLACES, Tally};
use self::tally::{Giving, Tallies};
use crate::balance::{Backend, Connects, Endpoint, EndpointPool};
use crate::model::{self, BackendKey, Model, ObjectKey, Vip};
use crate::name::HostPattern;

/// All listeners of one generation, with the routes, backends and endpoints behind them.
#[derive(Debug)]
pub struct RouteTable {
    generation: u64,
    listeners: Vec<Arc<Listener>>,
    by_addr: HashMap<(IpAddr, u16), Arc<Listener>, RandomState>,
    by_port: HashMap<u16, Arc<Listener>, RandomState>,
    backends: HashMap<BackendKey, Arc<Backend>, RandomState>,
    endpoints: EndpointPool,
    tallies: Tallies,
}

impl RouteTable {
    /// Compiles `model` as the table of `generation`, the successor of `previous`.
    ///
    /// Routes keep their counts by listener and pattern, also those that were gone for a while.
    /// Endpoints keep their counts by Service port and address, also those that were gone for a
    /// while but still carry connections. Backends keep their balancing position by key.
    ///
    /// Where the model breaks its promise and has a VIP and port, a pattern of a listener, or a
    /// backend key twice, the first one counts.
    pub fn compile(model: &Model, generation: u64, previous: Option<&Self>) -> Self {
        let mut compiler = Compiler {
            previous,
            backends: HashMap::default(),
            endpoints: previous
                .map(|table| EndpointPool::carried_from(&table.endpoints))
                .unwrap_or_default(),
            tallies: match previous {
                Some(table) => table.tallies.give(table.generation, generation),
                None => Tallies::default().give(0, generation),
            },
        };
        let listeners: Vec<_> = model
            .listeners
            .iter()
            .map(|listener| compiler.listener(listener))
            .collect();

        let mut by_addr = HashMap::default();
        let mut by_port = HashMap::default();
        for listener in &listeners {
            let shared = || Arc::clone(listener);
            for vip in &listener.front.vips {
                match vip {
                    Vip::Any => by_port.entry(listener.front.port).or_insert_with(shared),
                    Vip::Addr(addr) => by_addr
                        .entry((addr.to_canonical(), listener.front.port))
                        .or_insert_with(shared),
                };
            }
        }
        let Compiler {
            previous: _,
            backends,
            endpoints,
            tallies,
        } = compiler;
        Self {
            generation,
            listeners,
            by_addr,
            by_port,
            backends,
            endpoints,
            tallies: tallies.done(),
        }
    }

    /// The number of the snapshot this table was compiled from.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The listener that serves connections to the local address `local`: the one with that VIP,
    /// else the one that serves every address on that port.
    ///
    /// IPv4 addresses are accepted as v4-mapped too, as a dual-stack socket reports them. Scope
    /// and flow label of IPv6 addresses do not matter.
    pub fn listener(&self, local: SocketAddr) -> Option<&Arc<Listener>> {
        self.by_addr
            .get(&(local.ip().to_canonical(), local.port()))
            .or_else(|| self.by_port.get(&local.port()))
    }

    /// All listeners, in the model's order.
    pub fn listeners(&self) -> impl ExactSizeIterator<Item = &Arc<Listener>> {
        self.listeners.iter()
    }

    /// Every backend that a route leads to, each once, in no particular order.
    pub fn backends(&self) -> impl ExactSizeIterator<Item = &Arc<Backend>> {
        self.backends.values()
    }

    /// Every endpoint that can be chosen, or still has connections, with its Service and port; in no
    /// particular order.
    pub fn endpoints(&self) -> impl Iterator<Item = (&ObjectKey, &str, Arc<Endpoint>)> {
        self.endpoints.alive()
    }

    /// Connects to all those endpoints that are [too many](Endpoint::is_counted_alone) to be told
    /// one by one.
    pub fn other_connects(&self) -> Connects {
        self.endpoints.other_connects()
    }

    /// Connections by listener and pattern of their route, also of routes that are gone; in no
    /// particular order. Those that are beyond [`PLACES`] come last, all together, without a name.
    pub fn counts(&self) -> impl Iterator<Item = (Option<(&ObjectKey, &HostPattern)>, Counts)> {
        self.tallies.counts()
    }
}

/// What is shared between the listeners while they are compiled.
struct Compiler<'a> {
    previous: Option<&'a RouteTable>,
    backends: HashMap<BackendKey, Arc<Backend>, RandomState>,
    endpoints: EndpointPool,
    tallies: Giving,
}

impl Compiler<'_> {
    fn listener(&mut self, listener: &model::Listener) -> Arc<Listener> {
        let routes = listener.routes.iter().map(|route| {
            Arc::new(Route {
                pattern: route.pattern.clone(),
                origin: route.origin.clone(),
                backend: self.backend(&route.backend),
                tally: self.tallies.tally(&listener.key, &route.pattern),
            })
        });
        let routes = routes.collect();
        Arc::new(Listener::new(self.front(listener), routes))
    }

    /// The predecessor's, if nothing has changed.
    fn front(&self, listener: &model::Listener) -> Arc<Front> {
        let front = Front {
            key: listener.key.clone(),
            vips: listener.vips.clone(),
            port: listener.port,
        };
        let at = match front.vips.first() {
            Some(Vip::Addr(addr)) => *addr,
            _ => Ipv4Addr::UNSPECIFIED.into(),
        };
        let predecessor = self
            .previous
            .and_then(|table| table.listener((at, front.port).into()));
        match predecessor {
            Some(same) if *same.front == front => Arc::clone(&same.front),
            _ => Arc::new(front),
        }
    }

    fn backend(&mut self, backend: &model::Backend) -> Arc<Backend> {
        if let Some(known) = self.backends.get(&backend.key) {
            return Arc::clone(known);
        }
        let predecessor = self
            .previous
            .and_then(|table| table.backends.get(&backend.key));
        let compiled = match predecessor {
            // Saves computing its Maglev table again.
            Some(same) if has_endpoints(same, &backend.endpoints) => Arc::clone(same),
            _ => {
                let predecessor = predecessor.map(Arc::as_ref);
                Arc::new(Backend::new(backend, &mut self.endpoints, predecessor))
            }
        };
        self.backends
            .insert(backend.key.clone(), Arc::clone(&compiled));
        compiled
    }
}

fn has_endpoints(backend: &Backend, addrs: &[Vec<SocketAddr>]) -> bool {
    backend
        .endpoints()
        .map(|endpoint| (endpoint.cluster(), endpoint.addr()))
        .eq(backend
            .key
            .shares()
            .iter()
            .zip(addrs)
            .flat_map(|(share, addrs)| {
                addrs
                    .iter()
                    .map(move |addr| (&share.service.cluster, *addr))
            }))
}
