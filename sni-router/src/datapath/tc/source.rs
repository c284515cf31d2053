//! A port towards an endpoint, for as long as a socket or a flow has it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use socket2::Socket;

use super::ports::{Port, Ports, Taken};
use super::registry::Registry;

/// A port that nobody else uses towards this endpoint. Given back on drop.
pub(super) struct SourcePort {
    ports: Arc<Ports>,
    port: Port,
    taken: Instant,
    /// Whether the endpoint may know of a connection from it.
    is_used: bool,
    is_left: bool,
}

impl SourcePort {
    /// Binds a socket to such a port; `None` if there is none.
    pub(super) fn bind(
        ports: &Arc<Ports>,
        registry: &Registry,
        socket: &Socket,
        endpoint: SocketAddr,
    ) -> Option<Self> {
        // Without it, a port that another endpoint's connection has could not be bound to.
        socket.set_reuse_address(true).ok()?;
        for _ in 0..ATTEMPTS {
            let source = Self::take(ports, registry, endpoint, |_| true)?;
            // To a wildcard address where none was asked for: which one it is then depends on the
            // route, which connecting looks up.
            let from = SocketAddr::new(source.from(), source.number());
            if socket.bind(&from.into()).is_ok() {
                return Some(source);
            }
            // Somebody else's; the next one then.
        }
        None
    }

    /// Such a port, to which no socket will be bound, of an address, or a wildcard, that is good for it.
    pub(super) fn take(
        ports: &Arc<Ports>,
        registry: &Registry,
        endpoint: SocketAddr,
        is_good: impl Fn(IpAddr) -> bool,
    ) -> Option<Self> {
        // As a flow has it.
        let endpoint = SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port());
        let taken = Instant::now();
        let Taken {
            port,
            was_lingering,
        } = ports.take_from(endpoint, taken, is_good)?;
        if was_lingering {
            registry.remove_lingering(port);
        }
        Some(Self {
            ports: Arc::clone(ports),
            port,
            taken,
            is_used: false,
            is_left: false,
        })
    }

    /// The address that it is bound to, or a wildcard.
    pub(super) fn from(&self) -> IpAddr {
        self.port.from
    }

    /// Its number.
    pub(super) fn number(&self) -> u16 {
        self.port.number
    }

    /// When the port was taken, which is before anything was sent from it.
    pub(super) fn taken(&self) -> Instant {
        self.taken
    }

    /// To whom it leads.
    pub(super) fn endpoint(&self) -> SocketAddr {
        self.port.to
    }

    /// It now belongs to a flow, and is given back when that has ended.
    pub(super) fn leave(mut self) {
        self.is_left = true;
    }

    /// A connection from it was opened: when given back, it rests for a while.
    pub(super) fn used(&mut self) {
        self.is_used = true;
    }
}

impl Drop for SourcePort {
    fn drop(&mut self) {
        if self.is_left {
            return;
        }
        if self.is_used {
            self.ports.linger(self.port, Instant::now());
        } else {
            self.ports.release(self.port);
        }
    }
}

/// How many ports that turn out to be somebody else's are passed over.
const ATTEMPTS: usize = 8;
