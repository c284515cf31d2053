//! Ports of ours that sockets have which this process did not open: a router's before it, or those that
//! nobody owns any more and the kernel is still ending. Who binds a socket is told by the kernel; who
//! opens a connection without one has to know.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Instant;

use sni_router_common::flow::own;

use super::ports::Ports;
use super::registry::lock;
use super::sides::{key, sides};
use crate::datapath::bpf::Flows;
use crate::tcp_table::{self, LISTEN, TcpSocket};

/// See the module.
#[derive(Default)]
pub(super) struct Occupied(Mutex<Option<Vec<Ends>>>);

/// An address of ours, and whom a socket there is connected to.
type Ends = (SocketAddr, SocketAddr);

impl Occupied {
    /// Keeps our hands off the ports of the sockets that are there when this is first called, before there
    /// are any of this process; until somebody says that whoever had them `is_gone`, and as long as
    /// ports rest. Of sockets that have become flows by then, the registry knows.
    pub(super) fn look(&self, ports: &Ports, flows: &Flows, is_gone: bool) -> io::Result<()> {
        let mut held = lock(&self.0);
        let held = match &mut *held {
            Some(held) => held,
            none => none.insert(found(ports, flows)?),
        };
        // One that is still being handed over may yet come back to its socket.
        held.retain(|(source, endpoint)| {
            let flow = flows.table().flow(&key(*endpoint, *source));
            !flow.is_some_and(|flow| is_gone || flow.own & (own::HELD | own::GUARDED) == 0)
        });
        if is_gone {
            let now = Instant::now();
            for (source, endpoint) in held.drain(..) {
                ports.linger(ports.port(source, endpoint), now);
            }
        }
        Ok(())
    }
}

/// Marks the ports as taken.
fn found(ports: &Ports, flows: &Flows) -> io::Result<Vec<Ends>> {
    let (mut connected, mut listening) = (Vec::new(), HashSet::new());
    let is_ours = |socket: &TcpSocket| ports.has(socket.local.port());
    tcp_table::for_each(|socket| match socket.state {
        _ if !is_ours(socket) => {}
        LISTEN => drop(listening.insert(socket.local.port())),
        _ => connected.push((socket.local, socket.peer)),
    })?;
    // Those who have connected to a program that listens there are nobody's endpoints.
    connected.retain(|(source, peer)| peer.port() != 0 && !listening.contains(&source.port()));
    // Of those whose hello is still sent without a socket, nothing else tells.
    flows.table().for_each(|key, flow| {
        if flow.up == 0 && flow.own & own::GUARDED != 0 {
            let (endpoint, source) = sides(key);
            connected.push((source, endpoint));
        }
    })?;
    for (source, endpoint) in &connected {
        ports.hold(ports.port(*source, *endpoint));
    }
    Ok(connected)
}
