//! A connection from accept to close, phase by phase.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use sni_router_core::balance::Lease;
use sni_router_core::table::Route;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::connect::{Attempts, connect};
use super::hello::{Greeting, Read, Reading};
use super::left::{Active, Left, reason};
use super::pending::Place;
use super::reason::CloseReason;
use super::record::{HelloFacts, Record};
use super::reject::{reject, reset};
use super::{Proxy, Settings};
use crate::carry::{Client, Datapath, Hold, Outcome, Pair};
use crate::socket::Socket;

/// Serves one client to the end. The record it leaves is its only result.
pub(super) async fn serve(proxy: Arc<Proxy>, client: Socket, peer: SocketAddr) {
    let active = Active::enter(&proxy);
    let Some(accepted) = Accepted::new(&proxy, client, peer) else {
        return;
    };
    let greeted = match accepted.greet().await {
        Ok(greeted) => greeted,
        Err(Some(rejected)) => return rejected.answer(&proxy.settings).await,
        Err(None) => return,
    };
    let routed = match greeted.route() {
        Ok(routed) => routed,
        Err(rejected) => return rejected.answer(&proxy.settings).await,
    };
    let connected = match routed.connect().await {
        Ok(connected) => connected,
        Err(rejected) => return rejected.answer(&proxy.settings).await,
    };
    connected.carry(active).await;
}

/// A client of which nothing is known but its address.
struct Accepted<'p> {
    proxy: &'p Proxy,
    client: Socket,
    record: Record,
}

impl<'p> Accepted<'p> {
    /// `None` if the client is gone already, or came to an address of no listener.
    fn new(proxy: &'p Proxy, client: Socket, peer: SocketAddr) -> Option<Self> {
        let vip = client.local_addr().ok()?;
        let mut record = Record::new(
            Arc::clone(&proxy.observer),
            Arc::clone(&proxy.quota),
            proxy.shutdown.clone(),
            canonical(peer),
            canonical(vip),
        );
        let table = proxy.table.load();
        record.listener = table
            .listener(record.vip)
            .map(|listener| Arc::clone(&listener.front));
        proxy.observer.accepted(record.listener.as_deref());
        if record.listener.is_none() {
            record.reason = CloseReason::NoListener;
            reset(&client);
            return None;
        }
        Some(Self {
            proxy,
            client,
            record,
        })
    }

    /// Reads the hello. Fails with nothing if there is no way to wait for it; the client is gone then.
    async fn greet(mut self) -> Result<Greeted<'p>, Option<Rejected<'p>>> {
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
                let read = reading.on(&client, settings.hello_timeout).await;
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
        let took = record.started().elapsed();
        record.observer().greeted(took, hello.size);
        record.hello = Some(HelloFacts::of(hello));
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
    fn route(self) -> Result<Routed<'p>, Rejected<'p>> {
        let Self {
            proxy,
            client,
            mut record,
            received,
        } = self;
        let host = record
            .hello
            .as_ref()
            .and_then(|hello| hello.server_name.as_ref());
        // The table of now, not of accept: a route added meanwhile counts.
        let table = proxy.table.load();
        let Some(listener) = table.listener(record.vip) else {
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
        record.route = Some(Arc::clone(&route));
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
    /// Connects to an endpoint and writes to it what was received.
    async fn connect(self) -> Result<Connected<'p>, Rejected<'p>> {
        let Self {
            proxy,
            client,
            mut record,
            received,
            route,
        } = self;
        let start = Instant::now();
        let mut attempts = Attempts::default();
        let within = proxy.settings.connect_timeout;
        let from = Client {
            socket: &client,
            addr: record.client,
            vip: record.vip,
        };
        let observer = &*proxy.observer;
        let result = connect(
            &*proxy.datapath,
            &route.backend,
            &from,
            &received,
            within,
            &mut attempts,
            observer,
        )
        .await;
        record.retries = attempts.failed;
        record.failed = attempts.log;
        match result {
            Ok(connected) => {
                record.observer().connected(start.elapsed(), record.retries);
                record.endpoint = Some(connected.lease.endpoint().addr());
                let written = connected.hold.is_none();
                let pair = Pair {
                    client,
                    endpoint: connected.stream,
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
            record.datapath = Some(kind);
            proxy.observer.carrying(kind);
            match datapath.carry(pair, &limits, &record.traffic).await {
                Ok(Outcome::Over(end)) => {
                    proxy.observer.carried(kind);
                    record.reason = reason(end);
                    return;
                }
                Ok(Outcome::Alone(flow)) => {
                    record.reason = CloseReason::Left;
                    return flow.leave(Box::new(Left::new(record, kind, _lease, active)));
                }
                Err(refused) => {
                    proxy.observer.carried(kind);
                    record.observer().declined(refused.decline);
                    record.declined = Some(refused.decline);
                    let Some(next) = datapath.next() else { return };
                    datapath = next;
                    pair = refused.pair;
                    if let Some(port) = pair.hold.take() {
                        _hold = port;
                        if deliver(&mut pair).await.is_err() {
                            record.reason = CloseReason::EndpointReset;
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
    pair.endpoint.set_nodelay(true)?;
    pair.endpoint.write_all(&pair.unsent).await?;
    pair.forwarded += pair.unsent.len() as u64;
    pair.unsent = Vec::new();
    Ok(())
}

/// A client that goes no further.
struct Rejected<'p> {
    client: Socket,
    tls13: bool,
    reason: CloseReason,
    /// Being told that a hello was bad takes as much of us as saying hello.
    _place: Option<Place<'p>>,
}

impl<'p> Rejected<'p> {
    /// Writes the record at once: telling the client may take a while.
    fn new(client: Socket, mut record: Record, reason: CloseReason) -> Self {
        record.reason = reason;
        let tls13 = record.hello.as_ref().is_some_and(|hello| hello.tls13);
        Self {
            client,
            tls13,
            reason,
            _place: None,
        }
    }

    fn keeping(mut self, place: Place<'p>) -> Self {
        self._place = Some(place);
        self
    }

    async fn answer(self, settings: &Settings) {
        reject(self.client, self.reason, &settings.answers, self.tls13).await;
    }
}

/// IPv4 addresses as such, not as v4-mapped IPv6 ones.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
