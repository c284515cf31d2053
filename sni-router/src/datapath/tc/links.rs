//! Ending flows whose interface has gone: of a tunnel that was made anew, or a network card that was taken out. They
//! know it by its number, which nobody has any more, and would be lost without a word.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tokio::io::unix::AsyncFd;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

use super::entry::Entry;
use super::registry::{Registry, lock};
use crate::carry::End;
use crate::sys::interface;
use crate::sys::readable::readable;

impl Registry {
    /// Ends flows that would leave by an interface which has gone. Runs as long as the datapath is used.
    pub(super) async fn watch_links(self: Arc<Self>) {
        if let Err(error) = self.follow_links().await {
            warn!(%error, "flows whose interface goes are not ended before they are idle");
        }
    }

    async fn follow_links(self: &Arc<Self>) -> io::Result<()> {
        let links = readable(listen()?)?;
        // At the start as well: an interface may have gone while no router was there.
        loop {
            // Once more for those that were being handed over, or adopted.
            for wait in [A_MOMENT, A_WHILE] {
                sleep(wait).await;
                let began = Instant::now();
                let registry = Arc::clone(self);
                // On a thread of its own: with a million flows, others would wait for it.
                let looked = spawn_blocking(move || registry.end_without_link()).await;
                looked.map_err(io::Error::other)?;
                sleep((began.elapsed() * REST).min(LONGEST_REST)).await;
            }
            one_goes(&links).await?;
        }
    }

    fn end_without_link(&self) {
        if lock(&self.entries).len() == 0 {
            return;
        }
        let mut links = HashMap::new();
        let mut lost = BTreeMap::new();
        let looked = self.flows.table().for_each(|_, flow| {
            let has_gone = links.entry(flow.ifindex);
            let has_gone = *has_gone.or_insert_with_key(|link| interface::has_gone(*link));
            if has_gone && flow.closed == 0 {
                // It leads to that side, whose socket would not have answered any more.
                let end = match flow.up {
                    1 => End::EndpointReset,
                    _ => End::ClientReset,
                };
                lost.insert(flow.id, end);
            }
        });
        if let Err(error) = looked {
            return warn!(%error, "the flow table cannot be read");
        }
        {
            let entries = lock(&self.entries);
            lost.retain(|id, _| entries.get(*id).is_some_and(Entry::is_left));
        }
        if !lost.is_empty() {
            info!(flows = lost.len(), "ending flows whose interface has gone");
        }
        for (id, end) in lost {
            self.end(id, end);
        }
    }
}

/// A socket that becomes readable when an interface comes, goes or changes.
fn listen() -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        // NETLINK_ROUTE
        None,
    )?;
    bind(
        &socket,
        &SocketAddrNetlink::new(0, libc::RTMGRP_LINK as u32),
    )?;
    Ok(socket)
}

/// Returns when an interface has gone.
async fn one_goes(links: &AsyncFd<OwnedFd>) -> io::Result<()> {
    loop {
        let mut ready = links.readable().await?;
        ready.clear_ready();
        if drain(links.get_ref()) {
            return Ok(());
        }
    }
}

/// Takes what has been told, and answers whether an interface may have gone.
fn drain(links: impl AsFd) -> bool {
    let mut message = [0; HEAD];
    let mut goes = false;
    loop {
        // The rest of a message is dropped with it.
        match recv(&links, message.as_mut_slice(), RecvFlags::DONTWAIT) {
            Ok((read, _)) => goes |= is_end(&message[..read]),
            // There was more than there was room for.
            Err(Errno::NOBUFS) => goes = true,
            Err(Errno::INTR) => {}
            Err(_) => return goes,
        }
    }
}

/// Whether a message says that an interface has gone. That a port leaves its bridge is told in the same words.
fn is_end(message: &[u8]) -> bool {
    let kind = message.get(4..).and_then(|rest| rest.first_chunk());
    let family = message.get(FAMILY);
    kind.is_some_and(|kind| u16::from_ne_bytes(*kind) == libc::RTM_DELLINK)
        && family.is_some_and(|family| i32::from(*family) == libc::AF_UNSPEC)
}

/// Changes come in groups, and what is made anew may have the number of the one before.
const A_MOMENT: Duration = Duration::from_millis(100);

/// Longer than most hand-overs, and than it takes to notice that a route has gone.
const A_WHILE: Duration = Duration::from_secs(6);

/// Looking takes a twentieth of one CPU at most, where interfaces of pods come and go all the time.
const REST: u32 = 20;
const LONGEST_REST: Duration = Duration::from_secs(30);

/// Where the family is of `struct ifinfomsg`, behind `struct nlmsghdr`.
const FAMILY: usize = 16;
/// Bytes of both.
const HEAD: usize = FAMILY + 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_is_of_an_interface_and_not_of_a_port() {
        let message = |kind: u16, family: i32| {
            let mut message = [0; HEAD];
            message[4..6].copy_from_slice(&kind.to_ne_bytes());
            message[FAMILY] = family as u8;
            message
        };
        assert!(is_end(&message(libc::RTM_DELLINK, libc::AF_UNSPEC)));
        assert!(!is_end(&message(libc::RTM_DELLINK, libc::AF_BRIDGE)));
        assert!(!is_end(&message(libc::RTM_NEWLINK, libc::AF_UNSPEC)));
        assert!(!is_end(&[0; 4]));
    }
}
