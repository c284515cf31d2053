//! Who gets no new connection, and what none are sent to.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use sni_router_core::addresses::AddressSet;
use sni_router_core::model::ObjectKey;
use sni_router_core::table::Front;

use super::reason::CloseReason;

/// See the module. Looked at for each connection; changed by operators, now and then.
#[derive(Debug, Default)]
pub struct Gate {
    denied: ArcSwap<AddressSet>,
    listeners: ArcSwap<BTreeSet<ObjectKey>>,
    endpoints: ArcSwap<Vec<SocketAddr>>,
}

impl Gate {
    /// Clients of these addresses are refused from now on, and no others.
    pub fn deny(&self, clients: AddressSet) {
        self.denied.store(Arc::new(clients));
    }

    /// Whether a client of this address is refused.
    pub fn denies(&self, client: IpAddr) -> bool {
        self.denied.load().contains(client)
    }

    /// Whether the listener takes new connections. Answers whether that is a change.
    pub fn drain_listener(&self, listener: &ObjectKey, drain: bool) -> bool {
        let mut is_change = false;
        self.listeners.rcu(|draining| {
            let mut draining = BTreeSet::clone(draining);
            is_change = match drain {
                true => draining.insert(listener.clone()),
                false => draining.remove(listener),
            };
            draining
        });
        is_change
    }

    /// Whether the endpoint gets new connections. Answers whether that is a change.
    pub fn drain_endpoint(&self, endpoint: SocketAddr, drain: bool) -> bool {
        let mut is_change = false;
        self.endpoints.rcu(|draining| {
            let mut others = Vec::clone(draining);
            others.retain(|other| *other != endpoint);
            is_change = (others.len() == draining.len()) == drain;
            others.extend(Some(endpoint).filter(|_| drain));
            others
        });
        is_change
    }

    /// Whether the listener is draining.
    pub fn drains_listener(&self, listener: &ObjectKey) -> bool {
        self.listeners.load().contains(listener)
    }

    /// Listeners that take no new connections.
    pub fn drained_listeners(&self) -> Guard<Arc<BTreeSet<ObjectKey>>> {
        self.listeners.load()
    }

    /// Endpoints that get no new connections.
    pub fn drained_endpoints(&self) -> Guard<Arc<Vec<SocketAddr>>> {
        self.endpoints.load()
    }

    /// Why a client is not served at all.
    pub(super) fn refuses(&self, client: IpAddr, listener: Option<&Front>) -> Option<CloseReason> {
        let Some(listener) = listener else {
            return Some(CloseReason::NoListener);
        };
        if self.denies(client) {
            return Some(CloseReason::Denied);
        }
        let is_draining = self.drains_listener(&listener.key);
        is_draining.then_some(CloseReason::ListenerDraining)
    }
}

#[cfg(test)]
mod tests {
    use sni_router_core::model::Vip;

    use super::*;

    #[test]
    fn gate_refuses_by_address_and_by_listener_until_told_otherwise() {
        let gate = Gate::default();
        let front = Front {
            key: ObjectKey::default(),
            vips: vec![Vip::Any],
            port: 443,
        };
        let client = "192.0.2.1".parse().unwrap();
        assert_eq!(gate.refuses(client, None), Some(CloseReason::NoListener));
        assert_eq!(gate.refuses(client, Some(&front)), None);

        gate.deny(AddressSet::read("192.0.2.0/24").0);
        assert_eq!(
            gate.refuses(client, Some(&front)),
            Some(CloseReason::Denied)
        );
        gate.deny(AddressSet::default());
        assert_eq!(gate.refuses(client, Some(&front)), None);

        assert!(gate.drain_listener(&front.key, true));
        assert!(!gate.drain_listener(&front.key, true));
        let refused = gate.refuses(client, Some(&front));
        assert_eq!(refused, Some(CloseReason::ListenerDraining));
        assert!(gate.drain_listener(&front.key, false));
        assert_eq!(gate.refuses(client, Some(&front)), None);
    }

    #[test]
    fn endpoint_is_drained_once_and_comes_back() {
        let gate = Gate::default();
        let [one, other] = [1, 2].map(|port| SocketAddr::from(([10, 0, 0, 1], port)));
        assert!(gate.drain_endpoint(one, true));
        assert!(!gate.drain_endpoint(one, true));
        assert!(gate.drain_endpoint(other, true));
        assert_eq!(**gate.drained_endpoints(), [one, other]);
        assert!(gate.drain_endpoint(one, false));
        assert!(!gate.drain_endpoint(one, false));
        assert_eq!(**gate.drained_endpoints(), [other]);
    }
}
