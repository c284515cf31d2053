//! Connecting to an endpoint of a backend, and writing the hello to it.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;

use sni_router_core::balance::{Backend, Lease};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

use super::reason::CloseReason;
use super::record::Observer;
use crate::carry::{Client, Datapath, Hold};
use crate::socket::{Socket, is_own};

/// A connection to an endpoint that has been sent the hello, or will be by the datapath.
pub(super) struct Connected {
    pub(super) socket: Socket,
    /// Counts as one of the endpoint's connections while it lives.
    pub(super) lease: Lease,
    /// With something to hold, the datapath sends the hello.
    pub(super) hold: Option<Hold>,
}

/// How far to go.
pub(super) struct Bounds {
    /// When all of it has to be over.
    pub(super) deadline: Instant,
    /// Endpoints that get no new connections.
    pub(super) drained: Vec<SocketAddr>,
    /// The one to try first, if that is known already.
    pub(super) first: Option<Lease>,
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

/// Tries endpoint after endpoint, each at most once, until one has taken `hello`, enough have not,
/// or the time is over. The hello can be sent again as long as nobody has answered it.
pub(super) async fn connect(
    datapath: &dyn Datapath,
    backend: &Backend,
    client: &Client<'_>,
    hello: &[u8],
    bounds: Bounds,
    attempts: &mut Attempts,
    observer: &dyn Observer,
) -> Result<Connected, CloseReason> {
    let deadline = bounds.deadline;
    let limit = most_attempts(backend);
    let (mut tried, mut first) = (Vec::new(), bounds.first);
    loop {
        let chosen = first.take();
        let pick = || backend.pick_undrained(client.addr.ip(), &tried, &bounds.drained, uptime());
        let Some(lease) = chosen.or_else(pick) else {
            break;
        };
        let addr = lease.endpoint().addr();
        let left = limit.saturating_sub(tried.len());
        let begun = Instant::now();
        let error =
            match timeout_at(share(deadline, left), greet(datapath, addr, client, hello)).await {
                Ok(Ok((socket, hold))) => {
                    backend.record_success(lease.endpoint(), begun.elapsed());
                    return Ok(Connected {
                        socket,
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
        if tried.len() >= limit || Instant::now() >= deadline {
            break;
        }
        // Where connecting fails at once, nothing above has waited.
        yield_now().await;
    }
    Err(if tried.is_empty() {
        CloseReason::NoEndpoint
    } else {
        CloseReason::ConnectFailed
    })
}

/// How many endpoints a connection may try: of each cluster one at least.
fn most_attempts(backend: &Backend) -> usize {
    let clusters = backend.key.shares().len();
    MOST_ATTEMPTS.max(clusters).min(backend.endpoint_count())
}

/// How long this process has been connecting: the clock of [`Backend::pick`].
pub fn uptime() -> Duration {
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
) -> io::Result<(Socket, Option<Hold>)> {
    let socket = Socket::towards(addr)?;
    let hold = datapath.prepare(&socket, addr, client);
    if hold.is_none() {
        socket.set_tcp_nodelay(true)?;
    }
    let mut socket = Socket::connect(socket, addr).await?;
    if hold.is_none() {
        // It will be waited for. Where that cannot be, the endpoint has heard nothing yet.
        socket = socket.registered()?.into();
        socket.write_all(hello).await?;
    }
    Ok((socket, hold))
}

/// When so many endpoints have failed, another one is not likely to be better, and a client must not
/// keep a worker busy with hundreds.
const MOST_ATTEMPTS: usize = 8;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sni_router_core::model::{
        self, BackendKey, Listener, Method, Model, ObjectKey, Route, Share, Vip,
    };
    use sni_router_core::problem::ObjectRef;
    use sni_router_core::table::RouteTable;

    use super::*;

    #[test]
    fn attempts_are_few_and_one_of_each_cluster_at_least() {
        for (clusters, endpoints, most) in [
            (1, 0, 0),
            (1, 2, 2),
            (1, 1_000, 8),
            (3, 500, 8),
            (20, 10, 20),
        ] {
            let found = most_attempts(&backend(clusters, endpoints));
            assert_eq!(found, most, "{clusters} × {endpoints}");
        }
    }

    /// So many clusters with so many endpoints each.
    fn backend(clusters: u8, endpoints: u16) -> Arc<Backend> {
        let share = |number| Share {
            service: ObjectKey {
                cluster: format!("c{number}").parse().unwrap(),
                ..ObjectKey::default()
            },
            port: "443".into(),
            tier: 0,
            weight: None,
        };
        let addrs = |number| {
            let addr = |port| SocketAddr::from(([10, 0, 0, number], port));
            (1..=endpoints).map(addr).collect()
        };
        let route = Route {
            pattern: "".parse().unwrap(),
            backend: model::Backend {
                key: BackendKey::shared((0..clusters).map(share).collect(), Method::default()),
                endpoints: (0..clusters).map(addrs).collect(),
            },
            origin: ObjectRef::default(),
        };
        let model = Model {
            listeners: vec![Listener {
                key: ObjectKey::default(),
                vips: vec![Vip::Any],
                port: 443,
                routes: vec![route],
            }],
            ..Model::default()
        };
        let table = RouteTable::compile(&model, 1, None);
        let backend = table.backends().next().unwrap();
        Arc::clone(backend)
    }
}
