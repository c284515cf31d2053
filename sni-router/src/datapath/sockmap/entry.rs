//! Entering the map, and getting out of it again when the kernel does not want us.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use tracing::debug;

use super::Maps;
use super::carried::{Carried, Sockets};
use super::flow::Flow;
use super::hangup;
use super::side::{Side, abort};
use super::slots::SlotPair;
use crate::carry::{Decline, End, Pair, Refused};
use crate::sys::sockopt::{cookie, data_ready};

/// What a connection holds of the maps. Must be dropped after its sockets: a slot that is given to
/// another connection while a socket is still in it would throw that socket out.
pub(super) struct Entry {
    pub(super) maps: Arc<Maps>,
    pub(super) slots: SlotPair,
    cookies: [Option<u64>; 2],
}

impl Drop for Entry {
    fn drop(&mut self) {
        for cookie in self.cookies.into_iter().flatten() {
            self.maps.sockets.forget(cookie);
        }
    }
}

/// A connection that did not enter.
pub(super) enum Outside {
    /// Somebody else may carry it.
    Refused(Box<Refused>),
    /// It is over.
    Ended(End),
}

/// Puts both sockets into the map, and has the kernel judge what they had received before.
pub(super) fn enter(maps: &Arc<Maps>, slots: SlotPair, pair: Pair) -> Result<Carried, Outside> {
    let pair = drained(pair)?;
    let forwarded = pair.forwarded;
    let (client, endpoint) = deregister(pair);
    let client = Side {
        socket: client,
        read_before: forwarded,
        acked_before: 0,
    };
    let endpoint = Side {
        socket: endpoint,
        read_before: 0,
        acked_before: forwarded + SYN,
    };
    let mut entry = Entry {
        maps: Arc::clone(maps),
        slots,
        cookies: [None; 2],
    };
    match try_enter(&mut entry, &client, &endpoint) {
        Ok((up, down)) => Ok(Carried {
            up,
            down,
            sockets: Sockets {
                client,
                endpoint,
                entry,
            },
        }),
        Err(error) => {
            debug!(%error, "a socket was not taken into the map");
            Err(give_back(
                entry,
                client.socket,
                endpoint.socket,
                forwarded,
                decline(&error),
            ))
        }
    }
}

/// Moves on what the client's socket has received, until there is nothing left to read.
///
/// `tcp_read_skb` (net/ipv4/tcp.c) gives the verdict program whole buffers, also one of which a
/// part has been read already: those bytes would reach the endpoint twice. A queue that was empty
/// once holds no such buffer. The endpoint's socket has never been read from.
fn drained(mut pair: Pair) -> Result<Pair, Outside> {
    let mut buffer = [0; DRAIN_BYTES];
    for _ in 0..DRAIN_ROUNDS {
        let read = match pair.client.try_read(&mut buffer) {
            // A FIN can be read again by whoever comes next. An error cannot, and must not be lost.
            Ok(0) => return Ok(pair),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(pair),
            Err(_) => return Err(cut(&pair, End::ClientReset)),
        };
        let written = match pair.endpoint.try_write(&buffer[..read]) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return Err(cut(&pair, End::EndpointReset)),
        };
        pair.forwarded += written as u64;
        if written < read {
            pair.unsent = buffer[written..read].to_vec();
            break;
        }
    }
    let decline = Decline::SlowEndpoint;
    Err(Outside::Refused(Box::new(Refused { pair, decline })))
}

fn cut(pair: &Pair, end: End) -> Outside {
    abort(&pair.client);
    abort(&pair.endpoint);
    Outside::Ended(end)
}

/// In an order in which the second insertion is the last thing that can fail: a socket that is in
/// the map cannot be taken out without losing what it received meanwhile.
fn try_enter(entry: &mut Entry, client: &Side, endpoint: &Side) -> io::Result<(Flow, Flow)> {
    let Entry {
        maps,
        slots,
        cookies,
    } = entry;
    let up = Flow::start(endpoint, maps.sockets.stream(slots.client()))?;
    let down = Flow::start(client, maps.sockets.stream(slots.endpoint()))?;
    let known = [cookie(&client.socket)?, cookie(&endpoint.socket)?];
    // The client first: it mostly waits for the endpoint's answer now, which then finds it there.
    let sides = [
        (slots.client(), &client.socket),
        (slots.endpoint(), &endpoint.socket),
    ];
    for (slot, socket) in sides {
        hangup::watch(&maps.slots, slot, socket)?;
    }
    for (index, (slot, socket)) in sides.into_iter().enumerate() {
        maps.sockets.insert(slot, known[index], socket)?;
        cookies[index] = Some(known[index]);
    }
    for (_, socket) in sides {
        // Fails only on a socket that is already gone; the hang-up tells.
        let _ = data_ready(socket);
    }
    Ok((up, down))
}

/// Takes the sockets out of tokio's epoll; `hangup` says why.
fn deregister(pair: Pair) -> (TcpStream, TcpStream) {
    match (pair.client.unregistered(), pair.endpoint.unregistered()) {
        (Ok(client), Ok(endpoint)) => (client, endpoint),
        // tokio only fails here if epoll does not know a socket that it registered.
        _ => unreachable!("a registered socket can be deregistered"),
    }
}

/// The pair as it was, but for what may be in the map already. That stays there: with no peer all
/// its bytes are passed up to whoever reads the socket.
fn give_back(
    entry: Entry,
    client: TcpStream,
    endpoint: TcpStream,
    forwarded: u64,
    decline: Decline,
) -> Outside {
    hangup::forget(&client);
    hangup::forget(&endpoint);
    let is_mapped = entry.cookies.iter().any(Option::is_some);
    let mapped = is_mapped.then(|| Box::new(entry) as Box<dyn Send + Sync>);
    let pair = Pair {
        client: client.into(),
        endpoint: endpoint.into(),
        forwarded,
        unsent: Vec::new(),
        mapped,
        hold: None,
    };
    Outside::Refused(Box::new(Refused { pair, decline }))
}

fn decline(error: &io::Error) -> Decline {
    match error.raw_os_error() {
        // sock_map_sk_state_allowed (net/core/sock_map.c): the connection is half closed already.
        Some(libc::EOPNOTSUPP) => Decline::NotEstablished,
        _ => Decline::KernelRefused,
    }
}

/// The SYN of a connection that we opened counts as one byte acknowledged.
const SYN: u64 = 1;

const DRAIN_BYTES: usize = 4096;

/// A client that has sent more than this behind its hello, and goes on, would hold the thread.
const DRAIN_ROUNDS: usize = 64;
