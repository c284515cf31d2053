//! One record a connection: written when the guard is dropped, so that no path forgets it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use humantime::format_rfc3339_millis;
use sni_router_core::hello::{Hello, Ja4};
use sni_router_core::name::Host;
use sni_router_core::table::{Front, Route};
use tokio::sync::watch;
use tracing::{Level, enabled, info};

use super::connect::ConnectFailure;
use super::quota::Quota;
use super::reason::{CloseReason, Closer};
use crate::carry::{Decline, Direction, Kind, Traffic};

/// Is told of every connection's steps; counts them.
pub trait Observer: Send + Sync {
    /// A connection was accepted. The listener is not known where its address is of none.
    fn accepted(&self, listener: Option<&Front>);
    /// A hello was read whole.
    fn greeted(&self, took: Duration, size: usize);
    /// An endpoint was connected to, after `retries` others had failed.
    fn connected(&self, took: Duration, retries: u32);
    /// An endpoint could not be connected to.
    fn connect_failed(&self, failure: ConnectFailure);
    /// A datapath is given the connection.
    fn carrying(&self, kind: Kind);
    /// A datapath is done with the connection, or has refused it.
    fn carried(&self, kind: Kind);
    /// A datapath refused the connection.
    fn declined(&self, decline: Decline);
    /// The connection is over.
    fn closed(&self, record: &Record);
}

/// What is known of a connection. Logged and counted when dropped.
pub struct Record {
    observer: Arc<dyn Observer>,
    quota: Arc<Quota>,
    shutdown: watch::Receiver<bool>,
    started: Instant,
    /// The same by the wall clock, which may have been set since.
    start: SystemTime,
    /// The client's address.
    pub client: SocketAddr,
    /// The address the client connected to.
    pub vip: SocketAddr,
    /// The listener of that address.
    pub listener: Option<Arc<Front>>,
    /// The hello.
    pub hello: Option<HelloFacts>,
    /// The route of its name.
    pub route: Option<Arc<Route>>,
    /// The endpoint connected to.
    pub endpoint: Option<SocketAddr>,
    /// The datapath that carried it.
    pub datapath: Option<Kind>,
    /// Why a better datapath did not.
    pub declined: Option<Decline>,
    /// Endpoints that failed before.
    pub retries: u32,
    /// Which, and how.
    pub failed: String,
    /// What exactly was wrong with a malformed hello; else empty.
    pub detail: &'static str,
    /// Bytes and FINs carried.
    pub traffic: Traffic,
    /// How it ended. [`CloseReason::Internal`] until somebody knows better.
    pub reason: CloseReason,
}

impl Record {
    /// The record of a connection accepted now.
    pub(super) fn new(
        observer: Arc<dyn Observer>,
        quota: Arc<Quota>,
        shutdown: watch::Receiver<bool>,
        client: SocketAddr,
        vip: SocketAddr,
    ) -> Self {
        Self {
            observer,
            quota,
            shutdown,
            started: Instant::now(),
            start: SystemTime::now(),
            client,
            vip,
            listener: None,
            hello: None,
            route: None,
            endpoint: None,
            datapath: None,
            declined: None,
            retries: 0,
            failed: String::new(),
            detail: "",
            traffic: Traffic::default(),
            reason: CloseReason::Internal,
        }
    }

    /// It was accepted this long ago.
    pub fn began(&mut self, age: Duration) {
        self.started = self.started.checked_sub(age).unwrap_or(self.started);
        self.start = self.start.checked_sub(age).unwrap_or(self.start);
    }

    /// When it was accepted.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Who counts.
    pub fn observer(&self) -> &dyn Observer {
        &*self.observer
    }

    fn closer(&self) -> Option<Closer> {
        match self.traffic.finished_first() {
            Some(Direction::Up) => Some(Closer::Client),
            Some(Direction::Down) => Some(Closer::Endpoint),
            None => self.reason.closer(),
        }
    }

    /// Writes it, unless nobody reads it or there are too many of its kind.
    fn log(&self) {
        if !is_written() {
            return;
        }
        let now = Instant::now();
        let is_carried = self.datapath.is_some();
        if let Some(suppressed) = self.quota.admit(self.reason, is_carried, now) {
            self.write(now, suppressed);
        }
    }

    fn write(&self, now: Instant, suppressed: u64) {
        let hello = self.hello.as_ref();
        let listener = self
            .listener
            .as_ref()
            .map(|listener| listener.key.to_string());
        let sni = hello
            .and_then(|hello| hello.server_name.as_ref())
            .map(|host| host.as_str());
        let alpn = hello.map_or("", |hello| &hello.alpn);
        let versions = hello.map_or("", |hello| &hello.versions);
        let ja4 = hello.and_then(|hello| hello.ja4.as_ref());
        let route = self.route.as_ref().map(|route| route.pattern.to_string());
        let backend = self
            .route
            .as_ref()
            .map(|route| route.backend.key.to_string());
        let endpoint = self.endpoint.map(|endpoint| endpoint.to_string());
        info!(
            target: TARGET,
            // A clock that was never set may be so early that a connection began before its epoch.
            start = %format_rfc3339_millis(self.start.max(UNIX_EPOCH)),
            client = %self.client,
            vip = %self.vip,
            listener = listener.as_deref().unwrap_or(""),
            sni = sni.unwrap_or(""),
            alpn,
            tls = versions,
            ja4 = ja4.map_or("", Ja4::as_str),
            ech = hello.is_some_and(|hello| hello.ech),
            route = route.as_deref().unwrap_or(""),
            backend = backend.as_deref().unwrap_or(""),
            endpoint = endpoint.as_deref().unwrap_or(""),
            datapath = self.datapath.map_or("", Kind::as_str),
            declined = self.declined.map_or("", Decline::as_str),
            bytes_up = self.traffic.up(),
            bytes_down = self.traffic.down(),
            duration_ms = now.duration_since(self.started).as_millis() as u64,
            retries = self.retries,
            failed = self.failed,
            detail = self.detail,
            closed_by = self.closer().map_or("", Closer::as_str),
            reason = self.reason.as_str(),
            suppressed,
            "closed"
        );
    }
}

/// Whether there is an access log.
pub(super) fn is_written() -> bool {
    enabled!(target: TARGET, Level::INFO)
}

/// What [`observe::log`](crate::observe) knows records by.
const TARGET: &str = "access";

impl Drop for Record {
    fn drop(&mut self) {
        // Dropped in the middle of a phase: by the end of the process, or by a bug.
        if self.reason == CloseReason::Internal && *self.shutdown.borrow() {
            self.reason = CloseReason::Drained;
        }
        self.observer.closed(self);
        self.log();
    }
}

/// What the record keeps of a hello: little, since it lives as long as the connection, and a client
/// can offer thousands of protocols.
pub struct HelloFacts {
    /// The server name.
    pub server_name: Option<Host>,
    /// Whether TLS 1.3 was offered.
    pub tls13: bool,
    /// Whether the name is the outer one of an encrypted hello.
    pub ech: bool,
    /// The client's fingerprint, if there is an access log.
    ja4: Option<Ja4>,
    /// `h2,http/1.1`, cut short.
    alpn: Box<str>,
    /// `1.3,1.2`, cut short.
    versions: Box<str>,
}

impl HelloFacts {
    /// Keeps what is needed.
    pub fn of(hello: Hello) -> Self {
        Self {
            alpn: listed(hello.alpn_names()),
            versions: listed(hello.versions.iter().map(|version| version_name(*version))),
            tls13: hello.versions.contains(&TLS_1_3),
            ech: hello.ech,
            ja4: hello.ja4,
            server_name: hello.server_name,
        }
    }
}

/// The first names of a list, with commas between; `…` where there were more.
fn listed(names: impl Iterator<Item = String>) -> Box<str> {
    let mut list = String::new();
    for name in names {
        if list.len() + name.len() > LISTED_BYTES {
            list.push('…');
            break;
        }
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(&name);
    }
    list.into()
}

fn version_name(version: u16) -> String {
    match version {
        TLS_1_3 => "1.3".to_owned(),
        0x0303 => "1.2".to_owned(),
        0x0302 => "1.1".to_owned(),
        0x0301 => "1.0".to_owned(),
        0x0300 => "ssl3".to_owned(),
        other => format!("{other:#06x}"),
    }
}

const TLS_1_3: u16 = 0x0304;

/// Room for the protocols and versions of every common client.
const LISTED_BYTES: usize = 64;

#[cfg(test)]
mod tests;
