//! Clients without a socket: those of which hello, route and endpoint are as usual. All others get one, and
//! are served as if they never had been without.

use std::any::Any;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sni_router_core::balance::Lease;
use sni_router_core::hello::{Hello, HelloReader, Progress};
use sni_router_core::table::{Front, Route};

use super::Proxy;
use super::conn::{First, Past};
use super::connect::uptime;
use super::left::{Active, leave};
use super::reason::CloseReason;
use super::record::{self, Record};
use super::worker::Door;
use crate::carry::{Alone, Before, Doorman, End, Guest, Kind, Loss, Welcome};

/// See the module.
pub struct Doors {
    proxy: Arc<Proxy>,
    /// Of the workers, which serve those who need a socket, in turn.
    doors: Vec<Door>,
    next: AtomicUsize,
}

impl Doors {
    /// Of workers of the same proxy.
    pub fn new(proxy: Arc<Proxy>, doors: Vec<Door>) -> Self {
        Self {
            proxy,
            doors,
            next: AtomicUsize::new(0),
        }
    }

    /// `None` for a client that needs a socket.
    fn endpoint(&self, client: SocketAddr, vip: SocketAddr, hello: Hello) -> Option<Visitor> {
        let proxy = &self.proxy;
        // One look into the table: what follows belongs together.
        let table = proxy.table.load();
        let listener = table.listener(vip)?;
        if proxy
            .gate
            .refuses(client.ip(), Some(&*listener.front))
            .is_some()
        {
            return None;
        }
        let route = Arc::clone(listener.route(hello.server_name.as_ref())?);
        let drained = proxy.gate.drained_endpoints();
        let lease = route
            .backend
            .pick_undrained(client.ip(), &[], &drained, uptime())?;
        Some(Visitor {
            proxy: Arc::clone(proxy),
            client,
            vip,
            front: Arc::clone(&listener.front),
            hello,
            greeted: Instant::now(),
            route,
            lease,
        })
    }
}

impl Doorman for Doors {
    fn judge(&self, client: SocketAddr, vip: SocketAddr, received: &[u8]) -> Welcome {
        let max = self.proxy.settings.hello_max_size;
        match HelloReader::new(max)
            .with_ja4(record::is_written())
            .advance(received)
        {
            Progress::NeedMore => Welcome::More,
            Progress::Hello(hello) => match self.endpoint(client, vip, hello) {
                Some(visitor) => Welcome::Endpoint(Box::new(visitor)),
                None => Welcome::Socket,
            },
            _ => Welcome::Socket,
        }
    }

    fn serve(&self, socket: TcpStream, client: SocketAddr, before: Before) {
        let Before {
            begun,
            guest,
            asked,
        } = before;
        let first = visitor(guest).map(|visitor| First {
            route: visitor.route,
            lease: visitor.lease,
            asked,
        });
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(door) = self.doors.get(next % self.doors.len().max(1)) {
            door.serve(socket, client, Past { begun, first });
        }
    }

    fn lost(&self, client: SocketAddr, vip: SocketAddr, before: Before, loss: Loss) {
        let mut record = match visitor(before.guest) {
            Some(visitor) => visitor.record(before.begun).0,
            None => {
                let record = Record::new(&self.proxy, client, vip, before.begun.elapsed());
                record.accepted();
                record
            }
        };
        record.reason = match loss {
            Loss::Left => CloseReason::ClientGone,
            Loss::NoSocket => CloseReason::Internal,
        };
    }

    fn place(&self) -> Option<Box<dyn Send>> {
        Some(Box::new(self.proxy.pending.enter()?))
    }

    fn busy(&self) -> Box<dyn Send> {
        Box::new(Active::enter(&self.proxy))
    }

    fn patience(&self) -> Duration {
        let settings = &self.proxy.settings;
        // An endpoint that is silent leaves time for others.
        PATIENCE
            .min(settings.hello_timeout)
            .min(settings.connect_timeout / 2)
    }
}

/// As it was made here.
fn visitor(guest: Option<Box<dyn Guest>>) -> Option<Box<Visitor>> {
    guest?.into_any().downcast().ok()
}

/// A client of which hello, route and endpoint are known.
struct Visitor {
    proxy: Arc<Proxy>,
    client: SocketAddr,
    vip: SocketAddr,
    /// Its addresses are ours as long as somebody knows of it.
    front: Arc<Front>,
    hello: Hello,
    /// When that was whole.
    greeted: Instant,
    route: Arc<Route>,
    lease: Lease,
}

impl Visitor {
    /// What is known of it, all at once, as if it had been told step by step.
    fn record(self, begun: Instant) -> (Record, Arc<Route>, Lease) {
        let (front, age) = (Some(self.front), begun.elapsed());
        let mut record = Record::of(&self.proxy, self.client, self.vip, front, age);
        record.accepted();
        record.greeted(self.hello, self.greeted.saturating_duration_since(begun));
        record.routed(&self.route);
        (record, self.route, self.lease)
    }
}

impl Guest for Visitor {
    fn endpoint(&self) -> SocketAddr {
        self.lease.endpoint().addr()
    }

    fn opened(self: Box<Self>, begun: Instant, took: Duration, flow: Box<dyn Alone>) {
        let proxy = Arc::clone(&self.proxy);
        let active = Active::enter(&proxy);
        let (record, route, lease) = self.record(begun);
        route.backend.record_success(lease.endpoint(), took);
        record.connected(lease.endpoint().addr(), took);
        record.carried_by(Kind::Tc);
        let connection = Arc::clone(&record.connection);
        leave(record, Some(lease), active, flow);
        // Whoever was denied meanwhile was not in the census yet.
        if proxy.gate.denies(connection.client().ip()) {
            proxy.census.end(&connection, End::Denied);
        }
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// How long a connection may take to be open.
const PATIENCE: Duration = Duration::from_secs(1);
