//! Listening sockets: where connections to the listeners' addresses arrive.
//!
//! Either the kernel program steers them to one group of sockets on a loopback port, or every
//! address is bound, if need be before the host has it. Each group has a socket per worker.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use arc_swap::ArcSwap;
use sni_router_core::plan::Plan;
use socket2::{Domain, Protocol, Socket, Type};
use tracing::{debug, error, info, warn};

use crate::datapath::bpf::Rules;
use crate::proxy::worker::Worker;
use crate::sys::sockopt::freebind;

/// How connections reach the workers.
pub enum Steering {
    /// `snir_lookup` finds the sockets; adding an address is a map entry.
    Lookup(Rules),
    /// Every address has sockets of its own.
    Bind(Bound),
}

/// Addresses that have sockets, and those that should have.
pub struct Bound {
    bound: BTreeSet<SocketAddr>,
    missing: BTreeSet<SocketAddr>,
    unbound: Arc<Unbound>,
}

/// Addresses of listeners that could not be bound, for who asks; mostly another program has them.
pub type Unbound = ArcSwap<BTreeSet<SocketAddr>>;

impl Steering {
    /// Prepares for what `plan` adds. On an error the plan must not be published; what was served
    /// before still is.
    pub fn add(&mut self, plan: &Plan, workers: &[Worker]) -> io::Result<()> {
        match self {
            Self::Lookup(rules) => rules.add(&plan.rules),
            Self::Bind(bound) => {
                bound.add(&plan.bind, workers);
                Ok(())
            }
        }
    }

    /// Tries once more what could not be bound. False if there is still something.
    pub fn retry(&mut self, workers: &[Worker]) -> bool {
        let Self::Bind(bound) = self else {
            return true;
        };
        let missing = bound.missing.clone();
        bound.add(&missing, workers);
        bound.missing.is_empty()
    }

    /// No new connection shall reach us, where that can be had without closing a socket.
    pub fn stop(&mut self) -> io::Result<()> {
        match self {
            Self::Lookup(rules) => rules.remove_others(&BTreeMap::new()),
            Self::Bind(_) => Ok(()),
        }
    }

    /// Removes what `plan` does not have. Running connections go on.
    pub fn remove_others(&mut self, plan: &Plan, workers: &[Worker]) -> io::Result<()> {
        match self {
            Self::Lookup(rules) => rules.remove_others(&plan.rules),
            Self::Bind(bound) => {
                bound.remove_others(&plan.bind, workers);
                Ok(())
            }
        }
    }
}

impl Bound {
    /// Nothing is bound yet. What cannot be will be in `unbound`.
    pub fn new(unbound: Arc<Unbound>) -> Self {
        Self {
            bound: BTreeSet::new(),
            missing: BTreeSet::new(),
            unbound,
        }
    }

    /// Binds those of `addrs` that have no sockets. One that cannot be bound must not keep the others from being served.
    fn add(&mut self, addrs: &BTreeSet<SocketAddr>, workers: &[Worker]) {
        for addr in addrs {
            if self.bound.contains(addr) {
                continue;
            }
            match listen(*addr, workers) {
                Ok(()) => {
                    self.missing.remove(addr);
                    self.bound.insert(*addr);
                }
                // Every IPv6 address of a host that has none.
                Err(error) if addr.ip().is_unspecified() && is_of_no_family(&error) => {
                    debug!(%addr, %error, "nothing to listen on");
                }
                Err(error) if self.missing.insert(*addr) => {
                    error!(%addr, %error, "cannot listen (does another program?); trying again");
                }
                Err(error) => debug!(%addr, %error, "still cannot listen"),
            }
        }
        self.tell();
    }

    fn remove_others(&mut self, addrs: &BTreeSet<SocketAddr>, workers: &[Worker]) {
        self.missing.retain(|addr| addrs.contains(addr));
        self.bound.retain(|addr| {
            let keep = addrs.contains(addr);
            if !keep {
                info!(%addr, "no longer listening");
                workers.iter().for_each(|worker| worker.unlisten(*addr));
            }
            keep
        });
        self.tell();
    }

    fn tell(&self) {
        if **self.unbound.load() != self.missing {
            self.unbound.store(Arc::new(self.missing.clone()));
        }
    }
}

/// The sockets `snir_lookup` steers to: per family a group on a loopback port nobody connects to.
pub struct Groups {
    v4: Option<Vec<TcpListener>>,
    v6: Option<Vec<TcpListener>>,
}

impl Groups {
    /// Opens them. A host without one of the families does without that group.
    pub fn open(workers: usize) -> io::Result<Self> {
        let v4 = group((Ipv4Addr::LOCALHOST, 0).into(), workers);
        let v6 = group((Ipv6Addr::LOCALHOST, 0).into(), workers);
        match (v4, v6) {
            (Err(error), Err(_)) => Err(error),
            (v4, v6) => Ok(Self {
                v4: v4.ok(),
                v6: v6.ok(),
            }),
        }
    }

    /// One socket of each group, for the kernel.
    pub fn representatives(&self) -> (Option<BorrowedFd<'_>>, Option<BorrowedFd<'_>>) {
        (first(self.v4.as_ref()), first(self.v6.as_ref()))
    }

    /// Has the workers accept from them.
    pub fn serve(self, workers: &[Worker]) {
        for group in [self.v4, self.v6].into_iter().flatten() {
            distribute(group, workers);
        }
    }
}

/// Whether the host does without the family.
fn is_of_no_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

fn first(group: Option<&Vec<TcpListener>>) -> Option<BorrowedFd<'_>> {
    group?.first().map(AsFd::as_fd)
}

fn listen(addr: SocketAddr, workers: &[Worker]) -> io::Result<()> {
    let group = group(addr, workers.len())?;
    info!(%addr, "listening");
    distribute(group, workers);
    Ok(())
}

fn distribute(group: Vec<TcpListener>, workers: &[Worker]) {
    for (worker, listener) in workers.iter().zip(group) {
        match listener.local_addr() {
            Ok(addr) => worker.listen(addr, listener),
            Err(error) => warn!(%error, "a listening socket is gone"),
        }
    }
}

/// `size` listening sockets on one address, between which the kernel spreads connections.
fn group(addr: SocketAddr, size: usize) -> io::Result<Vec<TcpListener>> {
    let first = socket(addr)?;
    // Port 0 becomes a real one with the first socket; the others join it.
    let addr = first.local_addr()?;
    let mut group = vec![first];
    while group.len() < size {
        group.push(socket(addr)?);
    }
    Ok(group)
}

fn socket(addr: SocketAddr) -> io::Result<TcpListener> {
    // TCP by name: where the default were MPTCP, a sock map would not take the sockets.
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    freebind(&socket, addr.is_ipv6())?;
    // Of the connections that come by it, which inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Connections waiting for accept, per socket; the kernel caps it at `net.core.somaxconn`.
pub const BACKLOG: i32 = 4096;
