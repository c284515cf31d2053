//! What connections that had sockets have shown, and the next one may build on.
//!
//! A connection is opened without sockets only where another one was handed over a moment ago: then the packets
//! of both sides are known to come by the program, and from which addresses they do. Each second some
//! connections get sockets again, and show whether that is still so.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::registry::lock;
use crate::datapath::bpf::Until;
use crate::sys::interface;

/// See the module.
pub(super) struct Known {
    taking: Mutex<Taking>,
    /// By the address that our port is bound to, which may be a wildcard, and the endpoint.
    paths: Mutex<Paths>,
}

/// How endpoints are reached.
#[derive(Default)]
struct Paths {
    by_ends: HashMap<(IpAddr, SocketAddr), Path>,
    /// When those that are too old were last looked for.
    swept: Option<Instant>,
}

/// Whose connections are opened without sockets.
#[derive(Default)]
struct Taking {
    /// `None` before that has begun, and after its end.
    until: Option<Until>,
    /// By interface.
    fronts: HashMap<u32, Front>,
    /// Until when nobody's are.
    paused: Option<Instant>,
}

/// How clients of an interface are reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Front {
    /// Largest IP packet that clients there are sent.
    pub(super) mtu: u16,
    /// When somebody has come by it.
    at: Instant,
}

/// How an endpoint is reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    /// From this address.
    pub(super) source: IpAddr,
    /// Largest IP packet that the path is known to take.
    pub(super) mtu: u16,
    /// The interface by which its packets reach the stack.
    pub(super) ifindex: u32,
    /// When that was shown.
    at: Instant,
}

/// What a connection that was handed over has shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof {
    /// By which interface its client has come, and the largest IP packet that the path to it is known to take;
    /// `None` if its handshake was not as usual.
    pub(super) front: Option<(u32, u16)>,
    /// As in [`Path`].
    pub(super) mtu: u16,
    /// As in [`Path`].
    pub(super) ifindex: u32,
}

impl Known {
    pub(super) fn new() -> Self {
        Self {
            taking: Mutex::default(),
            paths: Mutex::default(),
        }
    }

    /// Connections are opened without sockets from now on.
    pub(super) fn start(&self, until: Until) {
        lock(&self.taking).until = Some(until);
    }

    /// None are any more.
    pub(super) fn stop(&self) {
        if let Some(until) = lock(&self.taking).until.take() {
            until.stop();
        }
    }

    /// None are for a while.
    pub(super) fn pause(&self) {
        let mut taking = lock(&self.taking);
        taking.paused = Some(Instant::now() + PAUSE);
        if let Some(until) = &taking.until {
            until.stop();
        }
    }

    /// A connection from `source`, by a port that is bound to `from`, to `endpoint` was handed over.
    pub(super) fn note(&self, proof: &Proof, from: IpAddr, source: IpAddr, endpoint: SocketAddr) {
        let now = Instant::now();
        {
            let path = Path {
                source,
                mtu: proof.mtu,
                ifindex: proof.ifindex,
                at: now,
            };
            lock(&self.paths).note((from, endpoint), path);
        }
        if let Some((ifindex, mtu)) = proof.front {
            self.note_front(ifindex, mtu, now);
        }
    }

    fn note_front(&self, ifindex: u32, path_mtu: u16, now: Instant) {
        {
            let taking = lock(&self.taking);
            let front = taking.fronts.get(&ifindex);
            let is_fresh =
                front.is_some_and(|front| now.duration_since(front.at) < FRONT_LASTS / 4);
            if is_fresh || taking.until.is_none() {
                return;
            }
        }
        let Ok(mtu) = interface::mtu(ifindex) else {
            return;
        };
        // Of routes that say so, the interface does not know. It may also be the path of this client alone, and all
        // others have to bear it for a moment: not less than every path takes.
        let mtu = mtu.min(path_mtu.max(LEAST_MTU));
        let taking = &mut *lock(&self.taking);
        taking.fronts.insert(ifindex, Front { mtu, at: now });
        let is_paused = taking.paused.is_some_and(|until| now < until);
        if let (false, Some(until)) = (is_paused, &taking.until) {
            until.extend(ifindex, FRONT_LASTS);
        }
    }

    /// How clients of an interface are reached.
    pub(super) fn front(&self, ifindex: u32) -> Option<Front> {
        lock(&self.taking).fronts.get(&ifindex).copied()
    }

    /// How an endpoint is reached.
    pub(super) fn path(&self, from: IpAddr, endpoint: SocketAddr) -> Option<Path> {
        let path = lock(&self.paths).by_ends.get(&(from, endpoint)).copied();
        path.filter(|path| path.at.elapsed() < PATH_LASTS)
    }

    /// It was not: the next connection to it gets sockets.
    pub(super) fn forget(&self, from: IpAddr, endpoint: SocketAddr) {
        lock(&self.paths).by_ends.remove(&(from, endpoint));
    }
}

impl Paths {
    fn note(&mut self, ends: (IpAddr, SocketAddr), path: Path) {
        if let Some(known) = self.by_ends.get_mut(&ends) {
            *known = path;
            return;
        }
        let now = path.at;
        let is_swept = |when| now.duration_since(when) < SWEEP;
        if self.by_ends.len() >= MOST_PATHS && !self.swept.is_some_and(is_swept) {
            self.swept = Some(now);
            self.by_ends
                .retain(|_, path| now.duration_since(path.at) < PATH_LASTS);
        }
        if self.by_ends.len() < MOST_PATHS {
            self.by_ends.insert(ends, path);
        }
    }
}

/// How long after a connection with sockets others are opened without. Short: it is also how long a program
/// goes on whose daemon is gone.
const FRONT_LASTS: Duration = Duration::from_secs(1);

/// How long an endpoint needs no connection with sockets. Others show all the time that it can be reached;
/// routes and their MTU rarely change.
const PATH_LASTS: Duration = Duration::from_secs(60);

/// How long all connections get sockets where most that were opened without did in the end.
const PAUSE: Duration = Duration::from_secs(10);

/// What every path takes (RFC 8200, section 5).
const LEAST_MTU: u16 = 1280;

/// How often paths that are too old are looked for where there is no room.
const SWEEP: Duration = Duration::from_secs(1);

/// Far more than there are endpoints that need to be quick.
const MOST_PATHS: usize = 16_384;
