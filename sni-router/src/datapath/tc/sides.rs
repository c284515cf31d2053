//! Between whom a connection is that is handed over.

use std::net::{IpAddr, SocketAddr};

use sni_router_common::flow::{Addr, FlowKey, address, port_numbers, ports, v6};
use sni_router_common::rule::v4_mapped;

use crate::carry::Ends;

/// The four addresses of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sides {
    pub(super) client: SocketAddr,
    pub(super) vip: SocketAddr,
    pub(super) source: SocketAddr,
    pub(super) endpoint: SocketAddr,
}

impl Sides {
    /// The key of the client's packets.
    pub(super) fn up(&self) -> FlowKey {
        key(self.client, self.vip)
    }

    /// The key of the endpoint's packets.
    pub(super) fn down(&self) -> FlowKey {
        key(self.endpoint, self.source)
    }
}

/// The key of the packets from one to the other.
pub(super) fn key(from: SocketAddr, to: SocketAddr) -> FlowKey {
    FlowKey {
        src: words(from.ip()),
        dst: words(to.ip()),
        ports: ports(from.port(), to.port()),
    }
}

/// Who sends packets of this key, and to whom.
pub(super) fn sides(key: &FlowKey) -> (SocketAddr, SocketAddr) {
    let [from, to] = port_numbers(key.ports);
    (
        SocketAddr::new(address(&key.src), from),
        SocketAddr::new(address(&key.dst), to),
    )
}

/// Between whom a flow with these keys is.
pub(super) fn ends(keys: &[FlowKey; 2]) -> Ends {
    let (client, vip) = sides(&keys[0]);
    let (endpoint, _) = sides(&keys[1]);
    Ends {
        client,
        vip,
        endpoint,
    }
}

fn words(addr: IpAddr) -> Addr {
    match addr {
        IpAddr::V4(v4) => v6(v4_mapped(v4.octets())),
        IpAddr::V6(addr) => v6(addr.octets()),
    }
}
