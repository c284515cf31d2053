//! Connecting to an endpoint of a backend, and writing the hello to it.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use sni_router_core::balance::{Backend, Lease};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

use super::reason::CloseReason;
use super::record::Observer;
use crate::carry::{Client, Datapath, Hold};

/// A connection to an endpoint that has been sent the hello, or will be by the datapath.
pub(super) struct Connected {
    pub(super) stream: TcpStream,
    /// Counts as one of the endpoint's connections while it lives.
    pub(super) lease: Lease,
    /// With something to hold, the datapath sends the hello.
    pub(super) hold: Option<Hold>,
}

/// What trying cost, for the record.
#[derive(Default)]
pub(super) struct Attempts {
    /// Endpoints tried in vain.
    pub(super) failed: u32,
    /// Which, and how, as `10.0.0.1:443: connection refused; …`.
    pub(super) log: String,
}

/// How connecting failed, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// Nobody listens there.
    Refused,
    /// No answer in time.
    Timeout,
    /// No route, or the network says so.
    Unreachable,
    /// It took the connection, but not the hello.
    Reset,
    /// Something else: mostly this host being out of ports, descriptors or memory.
    Other,
}

impl ConnectFailure {
    /// All of them, for metrics.
    pub const ALL: [Self; 5] = [
        Self::Refused,
        Self::Timeout,
        Self::Unreachable,
        Self::Reset,
        Self::Other,
    ];

    /// The label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Other => "other",
        }
    }

    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unreachable,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            _ => Self::Other,
        }
    }
}

/// Tries endpoint after endpoint, each at most once, until one has taken `hello` or the time is
/// over. The hello can be sent again as long as nobody has answered it.
pub(super) async fn connect(
    datapath: &dyn Datapath,
    backend: &Backend,
    client: &Client<'_>,
    hello: &[u8],
    within: Duration,
    attempts: &mut Attempts,
    observer: &dyn Observer,
) -> Result<Connected, CloseReason> {
    let deadline = Instant::now() + within;
    let mut tried: Vec<SocketAddr> = Vec::new();
    while let Some(lease) = backend.pick(client.addr.ip(), &tried, uptime()) {
        let addr = lease.endpoint().addr();
        let left = backend.endpoint_count() - tried.len();
        let error =
            match timeout_at(share(deadline, left), greet(datapath, addr, client, hello)).await {
                Ok(Ok((stream, hold))) => {
                    backend.record_success(lease.endpoint());
                    return Ok(Connected {
                        stream,
                        lease,
                        hold,
                    });
                }
                Ok(Err(error)) => error,
                Err(_) => io::ErrorKind::TimedOut.into(),
            };
        if !is_own(&error) {
            backend.record_failure(lease.endpoint(), uptime());
        }
        observer.connect_failed(ConnectFailure::of(&error));
        attempts.failed += 1;
        let separator = if attempts.log.is_empty() { "" } else { "; " };
        // Writing to a string cannot fail.
        let _ = write!(attempts.log, "{separator}{addr}: {error}");
        tried.push(addr);
        if Instant::now() >= deadline {
            break;
        }
    }
    Err(if tried.is_empty() {
        CloseReason::NoEndpoint
    } else {
        CloseReason::ConnectFailed
    })
}

/// Whether this host failed, and not the endpoint: it is out of descriptors, memory or ports.
fn is_own(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL)
    )
}

/// How long this process has been connecting.
fn uptime() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

/// When to give up on this endpoint: it gets half of the time that is left, so that one that
/// swallows packets leaves time for others; the last one gets all.
fn share(deadline: Instant, endpoints_left: usize) -> Instant {
    if endpoints_left <= 1 {
        return deadline;
    }
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 2
}

async fn greet(
    datapath: &dyn Datapath,
    addr: SocketAddr,
    client: &Client<'_>,
    hello: &[u8],
) -> io::Result<(TcpStream, Option<Hold>)> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    let hold = datapath.prepare(&socket, addr, client);
    if hold.is_none() {
        socket.set_nodelay(true)?;
    }
    let mut stream = socket.connect(addr).await?;
    if hold.is_none() {
        stream.write_all(hello).await?;
    }
    Ok((stream, hold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_is_not_blamed_when_this_host_is_out_of_something() {
        for (code, own) in [
            (libc::EMFILE, true),
            (libc::EADDRNOTAVAIL, true),
            (libc::ECONNREFUSED, false),
            (libc::EHOSTUNREACH, false),
        ] {
            assert_eq!(is_own(&io::Error::from_raw_os_error(code)), own, "{code}");
        }
        assert!(!is_own(&io::ErrorKind::TimedOut.into()));
    }
}
