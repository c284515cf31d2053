//! IPsec policies of the host, which packets of flows do not meet: what leaves by
//! `bpf_redirect_neigh()` is given to the neighbour as it is (`bpf_out_neigh_v4()`,
//! net/core/filter.c), by `bpf_redirect_peer()` to another namespace, and what comes in never gets
//! to where the stack asks whether it had to be encrypted. So a connection that a policy covers is left to sockets.

mod selector;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, send,
    socket_with,
};
use tokio::time::sleep;
use tracing::{info, warn};

use super::sides::Sides;
use crate::sys::readable::readable;

use self::selector::{Policies, Policy, Read};

/// The policies of this process's network namespace, as they are now.
pub(super) struct Ipsec(ArcSwap<Policies>);

impl Ipsec {
    /// Reads the policies, and goes on reading them whenever one changes. Must be called on a tokio
    /// runtime.
    ///
    /// To listen has the kernel load what answers, which does nothing by itself. A kernel that has
    /// no such thing has no policies.
    pub(super) fn watch() -> Arc<Self> {
        let this = Arc::new(Self(ArcSwap::from_pointee(Policies::Unknown)));
        match listen() {
            Ok(changes) => {
                this.read();
                tokio::spawn(Arc::clone(&this).follow(changes));
            }
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {
                this.0.store(Arc::new(Policies::default()));
            }
            Err(error) => {
                warn!(%error, "IPsec policies are not known: nothing is handed to the kernel")
            }
        }
        this
    }

    /// Whether packets of this connection would have to meet a policy.
    pub(super) fn covers(&self, sides: &Sides) -> bool {
        self.0
            .load()
            .cover(&[(sides.client, sides.vip), (sides.endpoint, sides.source)])
    }

    /// The same, of what this host sends to a client by itself.
    pub(super) fn covers_client(&self, client: SocketAddr, vip: SocketAddr) -> bool {
        self.0.load().cover(&[(client, vip)])
    }

    async fn follow(self: Arc<Self>, changes: OwnedFd) {
        let changes = match readable(changes) {
            Ok(changes) => changes,
            Err(error) => return self.lose(&error),
        };
        loop {
            match changes.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(error) => return self.lose(&error),
            }
            drain(changes.get_ref());
            self.read();
            // A daemon for keys changes many at once.
            sleep(A_MOMENT).await;
        }
    }

    fn read(&self) {
        let policies = match dump() {
            Ok(policies) => Policies::Known(policies),
            Err(error) => {
                warn!(%error, "IPsec policies cannot be read: nothing is handed to the kernel");
                Policies::Unknown
            }
        };
        let before = self.0.swap(Arc::new(policies));
        let count = |policies: &Policies| match policies {
            Policies::Known(policies) => policies.len(),
            Policies::Unknown => 0,
        };
        let (was, is) = (count(&before), count(&self.0.load()));
        if was != is {
            info!(
                policies = is,
                was, "IPsec: connections that a policy covers are carried by sockets from now on"
            );
        }
    }

    fn lose(&self, error: &io::Error) {
        warn!(%error, "IPsec policies are not known any more: nothing is handed to the kernel");
        self.0.store(Arc::new(Policies::Unknown));
    }
}

/// A socket that becomes readable when a policy comes, goes or changes.
fn listen() -> io::Result<OwnedFd> {
    let socket = open()?;
    bind(&socket, &SocketAddrNetlink::new(0, POLICY_GROUP))?;
    Ok(socket)
}

fn open() -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(netlink::XFRM),
    );
    socket.map_err(io::Error::from)
}

/// Takes what has been told, of which nothing is of interest but that there was something.
fn drain(changes: impl AsFd) {
    let mut message = [0; ANSWER];
    loop {
        match recv(&changes, message.as_mut_slice(), RecvFlags::DONTWAIT) {
            // There was more than there was room for. What is read next has it.
            Ok(_) | Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// All policies, asked again where they change meanwhile.
fn dump() -> io::Result<Vec<Policy>> {
    for _ in 0..ATTEMPTS {
        if let Some(policies) = dump_once()? {
            return Ok(policies);
        }
    }
    Err(io::ErrorKind::Interrupted.into())
}

fn dump_once() -> io::Result<Option<Vec<Policy>>> {
    let socket = open()?;
    send(&socket, &question(), SendFlags::empty())?;
    let mut policies = Vec::new();
    let mut answer = vec![0; ANSWER];
    // What follows is made when this has been read, and is there at once.
    loop {
        let (read, _) = recv(&socket, answer.as_mut_slice(), RecvFlags::DONTWAIT)?;
        match selector::read(&answer[..read], &mut policies)? {
            Read::More => {}
            Read::Done => return Ok(Some(policies)),
            Read::Changed => return Ok(None),
        }
    }
}

/// A message that asks for all policies.
fn question() -> [u8; HEADER] {
    let mut message = [0; HEADER];
    message[..4].copy_from_slice(&(HEADER as u32).to_ne_bytes());
    message[4..6].copy_from_slice(&GET_POLICY.to_ne_bytes());
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message
}

const A_MOMENT: Duration = Duration::from_millis(20);
const ATTEMPTS: u32 = 10;

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// As much as the kernel puts into one answer (`netlink_dump()`, net/netlink/af_netlink.c).
const ANSWER: usize = 32 * 1024;

// include/uapi/linux/xfrm.h: XFRM_MSG_GETPOLICY, and the bit of XFRMNLGRP_POLICY.
const GET_POLICY: u16 = 0x15;
const POLICY_GROUP: u32 = 1 << 3;
