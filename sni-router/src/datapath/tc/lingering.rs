//! Flows that have ended, whose entries stay in the kernel for what is still under way.

use std::collections::VecDeque;
use std::time::Duration;

use foldhash::HashMap;
use sni_router_common::flow::FlowKey;

use super::entry::{Keys, Moment};
use super::ports::Port;

/// See the module.
#[derive(Default)]
pub(super) struct Lingering {
    /// By what is unique among all flows.
    flows: HashMap<Port, (Keys, u32)>,
    /// In the order in which they ended.
    order: VecDeque<(Moment, Port, u32)>,
}

impl Lingering {
    /// Adds a flow that has ended now: its port, its number and the keys of its directions.
    pub(super) fn push(&mut self, now: Moment, port: Port, id: u32, keys: &[FlowKey; 2]) {
        self.order.push_back((now, port, id));
        self.flows.insert(port, (Keys::of(keys), id));
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether this one is here.
    pub(super) fn has(&self, port: Port, id: u32) -> bool {
        let found = self.flows.get(&port);
        found.is_some_and(|(_, other)| *other == id)
    }

    /// Takes out those that have lingered long enough.
    pub(super) fn take_over(&mut self, now: Moment) -> Vec<([FlowKey; 2], u32)> {
        let is_over = |one: &mut (Moment, _, _)| now.since(one.0) >= LINGER;
        let mut over = Vec::new();
        while let Some((_, port, id)) = self.order.pop_front_if(is_over) {
            // Its port may have been needed, and be another flow's by now.
            if self.has(port, id) {
                over.extend(self.take(port));
            }
        }
        over
    }

    /// Takes out the one that has lingered longest.
    pub(super) fn take_oldest(&mut self) -> Option<([FlowKey; 2], u32)> {
        while let Some((_, port, id)) = self.order.pop_front() {
            if self.has(port, id) {
                return self.take(port);
            }
        }
        None
    }

    /// Takes out the one of this port.
    pub(super) fn take(&mut self, port: Port) -> Option<([FlowKey; 2], u32)> {
        let (keys, id) = self.flows.remove(&port)?;
        Some((keys.whole(), id))
    }
}

/// As long as the kernel keeps connections in TIME_WAIT (TCP_TIMEWAIT_LEN, include/net/tcp.h).
pub(super) const LINGER: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    const fn port(number: u16) -> Port {
        let local = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        Port {
            from: local,
            to: std::net::SocketAddr::new(local, 1),
            number,
        }
    }

    #[test]
    fn flow_is_over_once_it_has_lingered_unless_its_port_was_needed() {
        let keys = [FlowKey {
            src: [0; 4],
            dst: [0; 4],
            ports: 0,
        }; 2];
        let mut lingering = Lingering::default();
        let start = Moment::now();
        for (id, number) in (1..).zip([10, 11, 12]) {
            lingering.push(start, port(number), id, &keys);
        }
        assert_eq!(lingering.take(port(11)), Some((keys, 2)));
        let later = start.later(LINGER / 2);
        lingering.push(later, port(11), 4, &keys);
        assert!(lingering.take_over(later).is_empty());
        let ids = |over: Vec<(_, u32)>| over.into_iter().map(|(_, id)| id).collect::<Vec<_>>();
        assert_eq!(ids(lingering.take_over(start.later(LINGER))), [1, 3]);
        assert!(lingering.has(port(11), 4));
        assert_eq!(ids(lingering.take_over(later.later(LINGER))), [4]);
        assert!(lingering.flows.is_empty() && lingering.order.is_empty());
    }
}
