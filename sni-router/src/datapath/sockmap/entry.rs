//! Entering the map, and getting out of it again when the kernel does not want us.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use tracing::debug;

use super::Maps;
use super::carried::Carried;
use super::flow::WINDOW;
use super::hangup;
use super::side::{Side, abort};
use super::slots::SlotPair;
use crate::carry::{Decline, End, Limits, Pair, Refused};
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

/// Moves on what the client's socket has received, until there is nothing left to read.
///
/// `tcp_read_skb` (net/ipv4/tcp.c) gives the verdict program whole buffers, also one of which a
/// part has been read already: those bytes would reach the endpoint twice. A queue that was empty
/// once holds no such buffer. The endpoint's socket has never been read from.
pub(super) async fn drained(mut pair: Pair, limits: &Limits) -> Result<Pair, End> {
    let end = loop {
        let bytes = match read_some(&pair.client) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(pair),
            Err(end) => break end,
        };
        match timeout(limits.idle, pair.endpoint.write_all(&bytes)).await {
            Ok(Ok(())) => pair.forwarded += bytes.len() as u64,
            Ok(Err(_)) => break End::EndpointReset,
            Err(_) => break End::Idle,
        }
    };
    for socket in [&pair.client, &pair.endpoint] {
        abort(socket);
    }
    Err(end)
}

/// What can be read at once, if anything. FIN counts as nothing: it can be read again. An error
/// cannot, and must not be lost.
/// The buffer is not part of the future, which lives as long as the connection.
fn read_some(client: &tokio::net::TcpStream) -> Result<Option<Vec<u8>>, End> {
    let mut buffer = [0; DRAIN_BYTES];
    match client.try_read(&mut buffer) {
        Ok(0) => Ok(None),
        Ok(read) => Ok(Some(buffer[..read].to_vec())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(_) => Err(End::ClientReset),
    }
}

/// Prepares the streams, puts both sockets into the map, then has the kernel judge what they had
/// received before.
pub(super) fn enter(maps: &Arc<Maps>, slots: SlotPair, pair: Pair) -> Result<Carried, Refused> {
    for slot in [slots.client(), slots.endpoint()] {
        maps.sockets.stream(slot).reset(WINDOW, WINDOW / 2);
    }
    let mut entry = Entry {
        maps: Arc::clone(maps),
        slots,
        cookies: [None; 2],
    };
    let forwarded = pair.forwarded;
    let (client, endpoint) = deregister(pair);
    if let Err(error) = try_enter(&mut entry, &client, &endpoint) {
        debug!(%error, "a socket was not taken into the map");
        return Err(give_back(
            entry,
            client,
            endpoint,
            forwarded,
            decline(&error),
        ));
    }
    let client = Side {
        socket: client,
        read_before: forwarded,
        written_before: 0,
    };
    let endpoint = Side {
        socket: endpoint,
        read_before: 0,
        written_before: forwarded,
    };
    Ok(Carried {
        client,
        endpoint,
        entry,
    })
}

fn try_enter(entry: &mut Entry, client: &TcpStream, endpoint: &TcpStream) -> io::Result<()> {
    let Entry {
        maps,
        slots,
        cookies,
    } = entry;
    // The client first: it mostly waits for the endpoint's answer now, which then finds it there.
    let sides = [(slots.client(), client), (slots.endpoint(), endpoint)];
    let known = [cookie(client)?, cookie(endpoint)?];
    for (index, (slot, socket)) in sides.into_iter().enumerate() {
        maps.sockets.insert(slot, known[index], socket)?;
        cookies[index] = Some(known[index]);
    }
    for (slot, socket) in sides {
        hangup::watch(&maps.slots, slot, socket)?;
        data_ready(socket)?;
    }
    Ok(())
}

/// Takes the sockets out of tokio's epoll; `hangup` says why.
fn deregister(pair: Pair) -> (TcpStream, TcpStream) {
    let Pair {
        client,
        endpoint,
        forwarded: _,
        mapped: _,
    } = pair;
    match (client.into_std(), endpoint.into_std()) {
        (Ok(client), Ok(endpoint)) => (client, endpoint),
        // tokio only fails here if epoll does not know a socket that it registered.
        _ => unreachable!("a registered socket can be deregistered"),
    }
}

/// The pair as it was, but for what may be in the map already: a socket that has entered must not
/// be taken out again, since what it received meanwhile would be lost with it. It stays, and its
/// bytes are passed up to whoever reads the socket.
fn give_back(
    entry: Entry,
    client: TcpStream,
    endpoint: TcpStream,
    forwarded: u64,
    decline: Decline,
) -> Refused {
    match (client.try_into(), endpoint.try_into()) {
        (Ok(client), Ok(endpoint)) => {
            let is_mapped = entry.cookies.iter().any(Option::is_some);
            let mapped = is_mapped.then(|| Box::new(entry) as Box<dyn Send + Sync>);
            Refused {
                pair: Pair {
                    client,
                    endpoint,
                    forwarded,
                    mapped,
                },
                decline,
            }
        }
        _ => unreachable!("a socket that was registered before can be registered"),
    }
}

fn decline(error: &io::Error) -> Decline {
    match error.raw_os_error() {
        // sock_map_sk_state_allowed (net/core/sock_map.c): the connection is half closed already.
        Some(libc::EOPNOTSUPP) => Decline::NotEstablished,
        _ => Decline::KernelRefused,
    }
}

const DRAIN_BYTES: usize = 4096;
