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
pub(super) struct Masters(HashMap<(u32, u32), (Instant, Option<u32>)>);

impl Masters {
    /// By which interface packets leave to whoever has sent one that was seen on `seen`, if earlier ones have reached
    /// the stack by `proven`; `None` if that cannot be told.
    pub(super) fn leaves_by(&mut self, seen: u32, proven: u32) -> Option<u32> {
        if seen == proven {
            return Some(proven);
        }
        let now = Instant::now();
        if let Some((asked, leaves_by)) = self.0.get(&(seen, proven))
            && now.duration_since(*asked) < LASTS
        {
            return *leaves_by;
        }
        let leaves_by = ask(seen, proven).ok().flatten();
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert((seen, proven), (now, leaves_by));
        leaves_by
    }
}

fn ask(seen: u32, proven: u32) -> io::Result<Option<u32>> {
    let mut next = seen;
    // A bond may be a port of a bridge.
    for _ in 0..DEEPEST {
        match master_of(next)? {
            Some(master) if master == proven => return Ok(Some(proven)),
            Some(master) => next = master,
            // Nobody's port: the way has changed, or there are several.
            None if next == seen => return Ok(Some(seen)),
            None => return Ok(None),
        }
    }
    Ok(None)
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
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

/// How long an answer holds: ports rarely change, and whoever changes interfaces has the kernel's lock.
const LASTS: Duration = Duration::from_secs(10);
const MOST: usize = 1024;
const DEEPEST: usize = 4;
