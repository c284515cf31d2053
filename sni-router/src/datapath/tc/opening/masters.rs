//! Which interface's ports others are: of a bridge, or a bond. What comes by a port is seen there first.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

/// Remembers what was asked a moment ago.
#[derive(Default)]
pub(super) struct Masters(HashMap<(u32, u32), (Instant, bool)>);

impl Masters {
    /// Whether packets that come in by `port` reach the stack by `master`. False where the kernel does not say.
    pub(super) fn is_port(&mut self, port: u32, master: u32) -> bool {
        let now = Instant::now();
        if let Some((asked, is_port)) = self.0.get(&(port, master))
            && now.duration_since(*asked) < LASTS
        {
            return *is_port;
        }
        let is_port = is_below(port, master);
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert((port, master), (now, is_port));
        is_port
    }
}

/// A bond may be a port of a bridge.
fn is_below(port: u32, master: u32) -> bool {
    let mut next = port;
    for _ in 0..DEEPEST {
        match master_of(next) {
            Ok(Some(found)) if found == master => return true,
            Ok(Some(found)) => next = found,
            Ok(None) | Err(_) => return false,
        }
    }
    false
}

/// Whose port an interface is (`IFLA_MASTER`, rtnetlink(7)).
fn master_of(ifindex: u32) -> io::Result<Option<u32>> {
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(link));
    request.header.flags = NLM_F_REQUEST;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // The kernel has answered when this returns.
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(link
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Controller(master) => Some(*master),
                _ => None,
            })),
        // It has just gone.
        _ => Ok(None),
    }
}

/// How long an answer holds: ports rarely change.
const LASTS: Duration = Duration::from_secs(1);
const MOST: usize = 1024;
const DEEPEST: usize = 4;
