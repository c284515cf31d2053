//! The contract between the proxy and what carries its connections.
//!
//! A [`Datapath`] is given two connected sockets once the hello has been written to the endpoint,
//! and answers when the connection has ended. It carries bytes, FIN and RST both ways, and
//! watches the limits.

mod alone;
mod traffic;

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub use self::alone::{Adopt, Alone, Aside, Ends, Keeper, Orphan, Seat};
pub use self::traffic::{Direction, Moved, Traffic};

use crate::socket::Socket;

/// Carries connections from the hello to the end.
pub trait Datapath: Send + Sync {
    /// Carries `pair` until it has ended, or until the kernel carries it alone. What could not be
    /// taken comes back in [`Refused::pair`], untouched, for the next datapath.
    fn carry<'a>(
        &'a self,
        pair: Pair,
        limits: &'a Limits,
        traffic: &'a Traffic,
    ) -> Pin<Box<dyn Future<Output = Result<Outcome, Refused>> + Send + 'a>>;

    /// Gets a socket ready that is about to be connected to an endpoint for this client. With
    /// something to hold, the hello is left for [`Datapath::carry`] to send; without, the
    /// connection is one like any other.
    fn prepare(
        &self,
        _socket: &socket2::Socket,
        _endpoint: SocketAddr,
        _client: &Client<'_>,
    ) -> Option<Hold> {
        None
    }

    /// Which one it is.
    fn kind(&self) -> Kind;

    /// The one to try when this one refuses. Only the last of the chain has none, and it never
    /// refuses.
    fn next(&self) -> Option<&dyn Datapath>;
}

/// How a datapath has left a connection.
pub enum Outcome {
    /// It is over.
    Over(End),
    /// The kernel goes on with it alone.
    Alone(Box<dyn Alone>),
}

/// Counts of connections whose sockets this process has, and whose bytes the kernel moves.
pub trait Live: Send + Sync {
    /// Bytes of the connection that is counted at this slot, up and down.
    fn moved(&self, slot: u32) -> (u64, u64);
}

/// Says where clients go that have no socket, as long as they need none.
pub trait Doorman: Send + Sync {
    /// Judges what a client has sent so far. It must be quick: others wait meanwhile.
    fn judge(&self, client: SocketAddr, vip: SocketAddr, received: &[u8]) -> Welcome;

    /// Serves a client by a socket, as one that was accepted.
    fn serve(&self, socket: TcpStream, client: SocketAddr, before: Before);

    /// A client was lost before it had a socket.
    fn lost(&self, client: SocketAddr, vip: SocketAddr, before: Before, loss: Loss);

    /// A place among those who are saying hello; `None` if all are taken. Given back on drop.
    fn place(&self) -> Option<Box<dyn Send>>;

    /// Until this is dropped, the process does not end by itself.
    fn busy(&self) -> Box<dyn Send>;

    /// How long it may take to open a connection.
    fn patience(&self) -> Duration;
}

/// What was known of a client without a socket.
pub struct Before {
    /// When its hello came.
    pub begun: Instant,
    /// What it was then, if that was known.
    pub guest: Option<Box<dyn Guest>>,
    /// When the guest's endpoint was asked, if it was.
    pub asked: Option<Instant>,
}

/// How a client was lost.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// It has reset its connection.
    Left,
    /// It was reset, since nothing could be done for it.
    NoSocket,
}

/// What becomes of a client without a socket.
pub enum Welcome {
    /// It has more to say.
    More,
    /// It needs a socket.
    Socket,
    /// It goes to an endpoint.
    Endpoint(Box<dyn Guest>),
}

/// A client of which the endpoint is known.
pub trait Guest: Send {
    /// Where it goes.
    fn endpoint(&self) -> SocketAddr;

    /// It was connected, which took so long, and handed to the kernel. `begun` is when its hello came.
    fn opened(self: Box<Self>, begun: Instant, took: Duration, flow: Box<dyn Alone>);

    /// For who has made it.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

/// A client that is about to get an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Client<'c> {
    /// The socket it has come by.
    pub socket: &'c Socket,
    /// Its address.
    pub addr: SocketAddr,
    /// The address it has connected to.
    pub vip: SocketAddr,
}

/// What must outlive the socket to the endpoint: the port that a datapath reserved for it.
pub type Hold = Box<dyn Any + Send + Sync>;

/// The two sockets of a connection.
pub struct Pair {
    /// From the client.
    pub client: Socket,
    /// To the endpoint.
    pub endpoint: Socket,
    /// Bytes read from the client and written to the endpoint so far: the hello and whatever
    /// came with it. Nothing has gone the other way.
    pub forwarded: u64,
    /// Read from the client, but not written yet; goes first.
    pub unsent: Vec<u8>,
    /// Set where a socket has entered a sock map, in which `splice(2)` does not see what it
    /// received. Holds what must outlive the sockets, and so stands last.
    pub mapped: Option<Box<dyn Send + Sync>>,
    /// What [`Datapath::prepare`] gave for the endpoint's socket, which it must outlive.
    pub hold: Option<Hold>,
}

/// The name of a datapath.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `splice(2)` and copies in this process.
    Userspace,
    /// `snir_verdict` redirects between the sockets.
    Sockmap,
    /// `snir_tc` rewrites packets; there are no sockets.
    Tc,
}

impl Kind {
    /// All of them, for metrics.
    pub const ALL: [Self; 3] = [Self::Userspace, Self::Sockmap, Self::Tc];

    /// The label in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Userspace => "userspace",
            Self::Sockmap => "sockmap",
            Self::Tc => "tc",
        }
    }
}

/// A datapath's answer when it cannot take a connection.
pub struct Refused {
    /// The connection, as it was.
    pub pair: Pair,
    /// Why.
    pub decline: Decline,
}

/// Why a better datapath was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decline {
    /// All slots are taken.
    TableFull,
    /// The kernel refused a socket or a map entry.
    KernelRefused,
    /// A socket was closed or reset before it could be handed over.
    NotEstablished,
    /// The client sends faster than the endpoint takes it, before anything was handed over.
    SlowEndpoint,
    /// A handshake did not come by our program: over loopback, by an interface without it, or
    /// through somebody who translates addresses.
    Unseen,
    /// There was no port for the connection to the endpoint.
    NoPort,
    /// The two handshakes did not agree on the same: timestamps on one side only, signatures,
    /// or counts of congestion marks.
    Options,
    /// One side speaks IPv4 and the other IPv6, whose headers are not of one size.
    MixedFamilies,
    /// The endpoint sent something before it had the hello, which is no TLS.
    EndpointSpoke,
    /// The client kept sending faster than its bytes could be read.
    InFlight,
    /// Another router takes over.
    TakenOver,
    /// An IPsec policy covers the packets of one side, which those of flows do not meet.
    Ipsec,
    /// The host's route to one side leads by another interface than that side's packets come by.
    Asymmetric,
    /// One side's windows are small, and this host has agreed on large units for telling them to the other side.
    SmallWindow,
}

impl Decline {
    /// All of them, for metrics.
    pub const ALL: [Self; 14] = [
        Self::TableFull,
        Self::KernelRefused,
        Self::NotEstablished,
        Self::SlowEndpoint,
        Self::Unseen,
        Self::NoPort,
        Self::Options,
        Self::MixedFamilies,
        Self::EndpointSpoke,
        Self::InFlight,
        Self::TakenOver,
        Self::Ipsec,
        Self::Asymmetric,
        Self::SmallWindow,
    ];

    /// The label in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TableFull => "table_full",
            Self::KernelRefused => "kernel_refused",
            Self::NotEstablished => "not_established",
            Self::SlowEndpoint => "slow_endpoint",
            Self::Unseen => "handshake_unseen",
            Self::NoPort => "no_port",
            Self::Options => "options_differ",
            Self::MixedFamilies => "mixed_families",
            Self::EndpointSpoke => "endpoint_spoke",
            Self::InFlight => "in_flight",
            Self::TakenOver => "taken_over",
            Self::Ipsec => "ipsec_policy",
            Self::Asymmetric => "asymmetric_path",
            Self::SmallWindow => "small_window",
        }
    }
}

impl fmt::Display for Decline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a carried connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides sent a FIN and everything before it was delivered to the kernel's queues.
    Done,
    /// The client reset the connection, or stopped answering.
    ClientReset,
    /// The endpoint reset the connection, or stopped answering.
    EndpointReset,
    /// No byte moved for the idle timeout.
    Idle,
    /// The connection reached the maximum duration.
    MaxDuration,
    /// The router is shutting down.
    Shutdown,
    /// An operator wanted it to end.
    Closed,
    /// The client's address is denied by now.
    Denied,
    /// The router could not go on.
    Failed,
}

impl End {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Done,
        Self::ClientReset,
        Self::EndpointReset,
        Self::Idle,
        Self::MaxDuration,
        Self::Shutdown,
        Self::Closed,
        Self::Denied,
        Self::Failed,
    ];
}

const _: () = {
    let mut number = 0;
    while number < End::ALL.len() {
        assert!(End::ALL[number] as usize == number);
        number += 1;
    }
    assert!(number == End::Failed as usize + 1);
};

/// When a carried connection is ended by the router.
#[derive(Clone)]
pub struct Limits {
    /// Longest time without a byte in either direction.
    pub idle: Duration,
    /// Longest time in all, from the hand-over.
    pub max_duration: Option<Duration>,
    /// Becomes true when connections must end now.
    pub shutdown: watch::Receiver<bool>,
}
