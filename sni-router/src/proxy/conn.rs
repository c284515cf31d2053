//! A connection from accept to close, phase by phase.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sni_router_core::balance::Lease;
use sni_router_core::table::Route;
use socket2::SockRef;
use tokio::time::{Instant, timeout};

use super::Proxy;
use super::connect::{Attempts, Bounds, connect};
use super::hello::{Greeting, Read, Reading};
use super::left::{Active, leave, reason};
use super::pending::Place;
use super::reason::CloseReason;
use super::record::Record;
use super::reject::{reject, reset};
use crate::carry::{Client, Datapath, Hold, Outcome, Pair};
use crate::socket::{Socket, is_own};

/// Serves one client to the end. The record it leaves is its only result.
pub(super) async fn serve(proxy: Arc<Proxy>, client: Socket, peer: SocketAddr, past: Option<Past>) {
    let active = Active::enter(&proxy);
    let (age, first) = match past {
        Some(past) => (past.begun.elapsed(), past.first),
        None => (Duration::ZERO, None),
    };
    let Some(accepted) = Accepted::new(&proxy, client, peer, age) else {
        return;
    };
    let connection = Arc::clone(&accepted.record.connection);
    let established = tokio::select! {
        biased;
        established = accepted.establish(first) => established,
        // The record says why.
        _ = connection.traffic.hear() => return,
    };
    match established {
        Ok(connected) => connected.carry(active).await,
        Err(Some(rejected)) => rejected.answer(&proxy).await,
        Err(None) => {}
    }
}

/// What was before a client had a socket.
pub(super) struct Past {
    /// When its hello came.
    pub(super) begun: std::time::Instant,
    pub(super) first: Option<First>,
}

/// The endpoint that was chosen for it then.
pub(super) struct First {
    pub(super) route: Arc<Route>,
    pub(super) lease: Lease,
    /// When that was asked, if it was.
    pub(super) asked: Option<std::time::Instant>,
}

/// A client of which nothing is known but its address.
struct Accepted<'p> {
    proxy: &'p Proxy,
    client: Socket,
    record: Record,
}

impl<'p> Accepted<'p> {
    /// `None` if the client is gone already, or is not served.
    fn new(proxy: &'p Arc<Proxy>, client: Socket, peer: SocketAddr, age: Duration) -> Option<Self> {
        let vip = client.local_addr().ok()?;
        let mut record = Record::new(proxy, canonical(peer), canonical(vip), age);
        let listener = record.connection.listener.as_deref();
        record.accepted();
        if let Some(reason) = proxy.gate.refuses(peer.ip(), listener) {
            record.reason = reason;
            reset(&client);
            return None;
        }
        Some(Self {
            proxy,
            client,
            record,
        })
    }

    /// From here to an endpoint. Fails with nothing if there is nobody to answer any more.
    async fn establish(self, first: Option<First>) -> Result<Connected<'p>, Option<Rejected>> {
        let routed = self.greet().await?.route()?;
        Ok(routed.connect(first).await?)
    }

    /// Reads the hello. Fails with nothing if there is no way to wait for it; the client is gone then.
    async fn greet(mut self) -> Result<Greeted<'p>, Option<Rejected>> {
        let settings = &self.proxy.settings;
        let Some(place) = self.proxy.pending.enter() else {
            let rejected = Rejected::new(self.client, self.record, CloseReason::TooManyHellos);
            return Err(Some(rejected));
        };
        let read = Reading::new(settings.hello_max_size).now(&self.client);
        let read = match read {
            Ok(Read::Part(reading)) => {
                let Ok(client) = self.client.registered() else {
                    return Err(None);
                };
                let passed = self.record.connection.age();
                let left = settings.hello_timeout.saturating_sub(passed);
                let read = reading.on(&client, left).await;
                self.client = client.into();
                read
            }
            Ok(Read::Whole(greeting)) => Ok(greeting),
            Err(unread) => Err(unread),
        };
        match read {
            Ok(greeting) => Ok(self.greeted(greeting)),
            Err(unread) => {
                self.record.detail = unread.detail;
                let rejected = Rejected::new(self.client, self.record, unread.reason);
                Err(Some(rejected.keeping(place)))
            }
        }
    }

    fn greeted(self, greeting: Greeting) -> Greeted<'p> {
        let Self {
            proxy,
            client,
            mut record,
        } = self;
        let Greeting { hello, received } = greeting;
        let took = record.connection.age();
        record.greeted(hello, took);
        Greeted {
            proxy,
            client,
            record,
            received,
        }
    }
}

/// A client whose hello was read.
struct Greeted<'p> {
    proxy: &'p Proxy,
    client: Socket,
    record: Record,
    /// All bytes received: the hello and what came with it.
    received: Vec<u8>,
}

impl<'p> Greeted<'p> {
    /// Finds the route of the hello's name.
    fn route(self) -> Result<Routed<'p>, Rejected> {
        let Self {
            proxy,
            client,
            record,
            received,
        } = self;
        let host = record.connection.host.get();
        // The table of now, not of accept: a route added meanwhile counts.
        let table = proxy.table.load();
        let Some(listener) = table.listener(record.connection.vip()) else {
            return Err(Rejected::new(client, record, CloseReason::NoListener));
        };
        let Some(route) = listener.route(host).cloned() else {
            let reason = if host.is_some() {
                CloseReason::UnknownHost
            } else {
                CloseReason::NoSni
            };
            return Err(Rejected::new(client, record, reason));
        };
        record.routed(&route);
        Ok(Routed {
            proxy,
            client,
            record,
            received,
            route,
        })
    }
}

/// A client of which the backend is known.
struct Routed<'p> {
    proxy: &'p Proxy,
    client: Socket,
    record: Record,
    received: Vec<u8>,
    route: Arc<Route>,
}

impl<'p> Routed<'p> {
    /// Connects to an endpoint and writes to it what was received. `first` is the one to try, unless the route is
    /// another one by now.
    async fn connect(self, first: Option<First>) -> Result<Connected<'p>, Rejected> {
        let Self {
            proxy,
            client,
            mut record,
            received,
            route,
        } = self;
        let first = first.filter(|first| Arc::ptr_eq(&first.route, &route));
        let asked = first.as_ref().and_then(|first| first.asked);
        let start = asked.map_or_else(Instant::now, Instant::from_std);
        let mut attempts = Attempts::default();
        let from = Client {
            socket: &client,
            addr: record.connection.client(),
            vip: record.connection.vip(),
        };
        let observer = &*proxy.observer;
        let result = connect(
            &*proxy.datapath,
            &route.backend,
            &from,
            &received,
            Bounds {
                deadline: start + proxy.settings.connect_timeout,
                drained: proxy.gate.drained_endpoints().to_vec(),
                first: first.map(|first| first.lease),
            },
            &mut attempts,
            observer,
        )
        .await;
        record.retries = attempts.failed;
        record.failed = attempts.log.into();
        match result {
            Ok(connected) => {
                record.connected(connected.lease.endpoint().addr(), start.elapsed());
                let written = connected.hold.is_none();
                let pair = Pair {
                    client,
                    endpoint: connected.socket,
                    forwarded: if written { received.len() as u64 } else { 0 },
                    unsent: if written { Vec::new() } else { received },
                    mapped: None,
                    hold: connected.hold,
                };
                Ok(Connected {
                    proxy,
                    pair,
                    record,
                    _lease: connected.lease,
                })
            }
            Err(reason) => Err(Rejected::new(client, record, reason)),
        }
    }
}

/// A client and its endpoint.
struct Connected<'p> {
    proxy: &'p Proxy,
    pair: Pair,
    record: Record,
    _lease: Lease,
}

impl Connected<'_> {
    /// Hands the pair to the best datapath that takes it, and waits for the end, or until the
    /// kernel needs nobody to wait.
    async fn carry(self, active: Active) {
        // Declared first, so that it outlives the pair: a port rests once its socket is closed.
        let mut _hold: Hold = Box::new(());
        let Self {
            proxy,
            mut pair,
            mut record,
            _lease,
        } = self;
        let limits = proxy.settings.limits(&proxy.shutdown);
        let mut datapath: &dyn Datapath = &*proxy.datapath;
        loop {
            let kind = datapath.kind();
            record.carried_by(kind);
            let traffic = &record.connection.traffic;
            match datapath.carry(pair, &limits, traffic).await {
                Ok(Outcome::Over(end)) => {
                    proxy.observer.carried(kind);
                    record.reason = reason(end);
                    return;
                }
                Ok(Outcome::Alone(flow)) => {
                    return leave(record, Some(_lease), active, flow);
                }
                Err(refused) => {
                    proxy.observer.carried(kind);
                    record.observer().declined(refused.decline);
                    record.step("declined", || {
                        format!("by {}: {}", kind.as_str(), refused.decline)
                    });
                    record.declined = Some(refused.decline);
                    let Some(next) = datapath.next() else { return };
                    datapath = next;
                    pair = refused.pair;
                    if let Some(port) = pair.hold.take() {
                        _hold = port;
                        let told = &record.connection.traffic;
                        let delivered = tokio::select! {
                            delivered = timeout(limits.idle, deliver(&mut pair)) => match delivered {
                                Ok(Ok(())) => Ok(()),
                                Ok(Err(error)) if is_own(&error) => Err(CloseReason::Internal),
                                Ok(Err(_)) => Err(CloseReason::EndpointReset),
                                Err(_) => Err(CloseReason::IdleTimeout),
                            },
                            end = told.hear() => Err(reason(end)),
                        };
                        if let Err(reason) = delivered {
                            record.reason = reason;
                            reset(&pair.client);
                            return;
                        }
                    }
                }
            }
        }
    }
}

/// Writes what a datapath was to write that then refused.
async fn deliver(pair: &mut Pair) -> io::Result<()> {
    // It will be waited for. Where that cannot be, the endpoint has heard nothing yet.
    pair.endpoint.register()?;
    SockRef::from(&pair.endpoint).set_tcp_nodelay(true)?;
    pair.endpoint.write_all(&pair.unsent).await?;
    pair.forwarded += pair.unsent.len() as u64;
    pair.unsent = Vec::new();
    Ok(())
}

/// A client that goes no further.
struct Rejected {
    client: Socket,
    tls13: bool,
    reason: CloseReason,
    /// Its place among those that say hello, if it still has one.
    place: Option<Place>,
}

impl Rejected {
    /// Writes the record at once: telling the client may take a while.
    fn new(client: Socket, mut record: Record, reason: CloseReason) -> Self {
        record.reason = reason;
        let tls13 = record.hello.as_ref().is_some_and(|hello| hello.tls13);
        Self {
            client,
            tls13,
            reason,
            place: None,
        }
    }

    fn keeping(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    async fn answer(self, proxy: &Proxy) {
        // Being told why takes as much of us as saying hello.
        let Some(_place) = self.place.or_else(|| proxy.pending.enter()) else {
            return reset(&self.client);
        };
        let answers = &proxy.settings.answers;
        reject(self.client, self.reason, answers, self.tls13).await;
    }
}

/// IPv4 addresses as such, not as v4-mapped IPv6 ones.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
