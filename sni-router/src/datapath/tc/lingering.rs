//! Flows that have ended, whose entries stay in the kernel for what is still under way.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use sni_router_common::flow::FlowKey;

/// See the module.
#[derive(Default)]
pub(super) struct Lingering {
    /// By what is unique among all flows: the endpoint, and our port towards it.
    flows: HashMap<(SocketAddr, u16), ([FlowKey; 2], u32)>,
    /// In the order in which they ended.
    order: VecDeque<(Instant, SocketAddr, u16, u32)>,
}

impl Lingering {
    /// Adds a flow that has ended now: its endpoint, its port towards that, its number and the keys
    /// of its directions.
    pub(super) fn push(
        &mut self,
        now: Instant,
        endpoint: SocketAddr,
        port: u16,
        id: u32,
        keys: [FlowKey; 2],
    ) {
        self.order.push_back((now, endpoint, port, id));
        self.flows.insert((endpoint, port), (keys, id));
    }

    /// Whether this one is here.
    pub(super) fn has(&self, endpoint: SocketAddr, port: u16, id: u32) -> bool {
        let found = self.flows.get(&(endpoint, port));
        found.is_some_and(|(_, other)| *other == id)
    }

    /// The next one that has lingered long enough; to be taken then.
    pub(super) fn over(&mut self, now: Instant) -> Option<(SocketAddr, u16, u32)> {
        let is_over = |one: &mut (Instant, _, _, _)| now.duration_since(one.0) >= LINGER;
        let (_, endpoint, port, id) = self.order.pop_front_if(is_over)?;
        Some((endpoint, port, id))
    }

    /// Takes the one of this port out, only if it is this one.
    pub(super) fn take(
        &mut self,
        endpoint: SocketAddr,
        port: u16,
        only: Option<u32>,
    ) -> Option<([FlowKey; 2], u32)> {
        let (_, id) = self.flows.get(&(endpoint, port))?;
        if only.is_some_and(|only| only != *id) {
            return None;
        }
        self.flows.remove(&(endpoint, port))
    }
}

/// As long as the kernel keeps connections in TIME_WAIT (TCP_TIMEWAIT_LEN, include/net/tcp.h).
pub(super) const LINGER: Duration = Duration::from_secs(60);
