//! One record a connection: written when the guard is dropped, so that no path forgets it.

use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use humantime::format_rfc3339_millis;
use sni_router_core::hello::{Hello, Ja4};
use sni_router_core::table::{Front, Route};
use tracing::{Level, enabled, info};

use super::Proxy;
use super::connect::ConnectFailure;
use super::connection::Connection;
use super::facts::HelloFacts;
use super::left::reason;
use super::profile::Profile;
use super::reason::{CloseReason, Closer};
use crate::carry::{Decline, Direction, Kind};

/// Is told of every connection's steps; counts them.
pub trait Observer: Send + Sync {
    /// A connection was accepted. The listener is not known where its address is of none.
    fn accepted(&self, listener: Option<&Front>);
    /// A hello was read whole.
    fn greeted(&self, took: Duration, size: usize);
    /// A connection takes a route.
    fn routed(&self, route: &Route);
    /// An endpoint was connected to, after `retries` others had failed.
    fn connected(&self, took: Duration, retries: u32);
    /// An endpoint could not be connected to.
    fn connect_failed(&self, failure: ConnectFailure);
    /// A connection is taken over that an earlier process has left to the kernel.
    fn adopted(&self);
    /// One that was taken over is this listener's.
    fn adopted_by(&self, listener: &Front);
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
    proxy: Arc<Proxy>,
    /// What others may see of it while it lives.
    pub connection: Arc<Connection>,
    /// The hello.
    pub hello: Option<Arc<HelloFacts>>,
    /// Why a better datapath did not.
    pub declined: Option<Decline>,
    /// Endpoints that failed before.
    pub retries: u32,
    /// Which, and how.
    pub failed: Box<str>,
    /// What exactly was wrong with a malformed hello; else empty.
    pub detail: &'static str,
    /// How it ended. [`CloseReason::Internal`] until somebody knows better.
    pub reason: CloseReason,
    /// It is not over: it will have another record.
    goes_on: bool,
}

impl Record {
    /// The record of a connection that was accepted `age` ago.
    pub fn new(proxy: &Arc<Proxy>, client: SocketAddr, vip: SocketAddr, age: Duration) -> Self {
        let table = proxy.table.load();
        let listener = table.listener(vip);
        let listener = listener.map(|listener| Arc::clone(&listener.front));
        Self::of(proxy, client, vip, listener, age)
    }

    /// The same of a known listener, or of none.
    pub(super) fn of(
        proxy: &Arc<Proxy>,
        client: SocketAddr,
        vip: SocketAddr,
        listener: Option<Arc<Front>>,
        age: Duration,
    ) -> Self {
        Self {
            proxy: Arc::clone(proxy),
            connection: proxy.census.enter(client, vip, listener, age),
            hello: None,
            declined: None,
            retries: 0,
            failed: Box::default(),
            detail: "",
            reason: CloseReason::Internal,
            goes_on: false,
        }
    }

    /// What is to be kept of a connection that is left to the kernel, and will have its record
    /// [again](Self::again).
    pub(super) fn into_profile(mut self) -> Profile {
        self.goes_on = true;
        Profile {
            listener: self.connection.listener.clone(),
            host: self.connection.host.get().cloned(),
            route: self.connection.route.get().cloned(),
            hello: self.hello.take(),
            declined: self.declined,
            retries: self.retries,
            failed: mem::take(&mut self.failed),
        }
    }

    /// The record of a connection that was left to the kernel, and is over for us for that reason.
    pub(super) fn again(
        proxy: &Arc<Proxy>,
        connection: Connection,
        profile: &Profile,
        reason: CloseReason,
    ) -> Self {
        Self {
            proxy: Arc::clone(proxy),
            connection: Arc::new(connection),
            hello: profile.hello.clone(),
            declined: profile.declined,
            retries: profile.retries,
            failed: profile.failed.clone(),
            detail: "",
            reason,
            goes_on: false,
        }
    }

    /// Who counts.
    pub fn observer(&self) -> &dyn Observer {
        &*self.proxy.observer
    }

    /// It has come so far.
    pub fn step(&self, phase: &'static str, detail: impl FnOnce() -> String) {
        self.proxy.trace.step(&self.connection, phase, detail);
    }

    /// The client is there.
    pub(super) fn accepted(&self) {
        let listener = self.connection.listener.as_deref();
        self.observer().accepted(listener);
        self.step("accepted", || {
            let vip = self.connection.vip();
            match listener {
                Some(listener) => format!("at {vip}, of Listener {}", listener.key),
                None => format!("at {vip}, of no Listener"),
            }
        });
    }

    /// Its hello was read, so long after it was accepted.
    pub(super) fn greeted(&mut self, hello: Hello, took: Duration) {
        self.observer().greeted(took, hello.size);
        self.hello = Some(HelloFacts::of(&hello));
        if let Some(host) = hello.server_name {
            // Nobody else has set it.
            let _ = self.connection.host.set(host);
        }
        self.step("hello", || {
            let (size, ms) = (hello.size, took.as_millis());
            format!("of {size} bytes, {ms} ms after accept")
        });
    }

    /// It has a route.
    pub(super) fn routed(&self, route: &Arc<Route>) {
        self.observer().routed(route);
        // Nobody else has set it.
        let _ = self.connection.route.set(Arc::clone(route));
        self.step("routed", || {
            let (pattern, origin, backend) = (&route.pattern, &route.origin, &route.backend.key);
            format!("by {pattern} of {origin} to Service {backend}")
        });
    }

    /// It has an endpoint.
    pub(super) fn connected(&self, endpoint: SocketAddr, took: Duration) {
        self.observer().connected(took, self.retries);
        self.connection.connected_to(endpoint);
        self.step("connected", || {
            let (ms, failed) = (took.as_millis(), &self.failed);
            let separator = if failed.is_empty() { "" } else { ", after " };
            format!("to {endpoint} in {ms} ms{separator}{failed}")
        });
    }

    /// A datapath takes it.
    pub(super) fn carried_by(&self, kind: Kind) {
        self.connection.carried_by(kind);
        self.observer().carrying(kind);
        self.step("carried", || format!("by {}", kind.as_str()));
    }

    fn closer(&self) -> Option<Closer> {
        match self.connection.traffic.finished_first() {
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
        let is_carried = self.connection.datapath().is_some();
        let quota = &self.proxy.quota;
        if let Some(suppressed) = quota.admit(self.reason, is_carried, now) {
            self.write(suppressed);
        }
    }

    fn write(&self, suppressed: u64) {
        let hello = self.hello.as_deref();
        let connection = &*self.connection;
        let listener = connection
            .listener
            .as_ref()
            .map(|listener| listener.key.to_string());
        let sni = connection.host.get().map(|host| host.as_str());
        let alpn = hello.map_or("", |hello| &hello.alpn);
        let versions = hello.map_or("", |hello| &hello.versions);
        let ja4 = hello.and_then(|hello| hello.ja4.as_ref());
        let route = connection.route.get();
        let backend = route.map(|route| route.backend.key.to_string());
        let route = route.map(|route| route.pattern.to_string());
        let endpoint = connection.endpoint().map(|endpoint| endpoint.to_string());
        info!(
            target: TARGET,
            id = connection.id,
            start = %format_rfc3339_millis(connection.start()),
            client = %connection.client(),
            vip = %connection.vip(),
            listener = listener.as_deref().unwrap_or(""),
            sni = sni.unwrap_or(""),
            alpn,
            tls = versions,
            ja4 = ja4.map_or("", Ja4::as_str),
            ech = hello.is_some_and(|hello| hello.ech),
            route = route.as_deref().unwrap_or(""),
            backend = backend.as_deref().unwrap_or(""),
            endpoint = endpoint.as_deref().unwrap_or(""),
            datapath = connection.datapath().map_or("", Kind::as_str),
            declined = self.declined.map_or("", Decline::as_str),
            bytes_up = connection.traffic.up(),
            bytes_down = connection.traffic.down(),
            duration_ms = connection.age().as_millis() as u64,
            retries = self.retries,
            failed = &*self.failed,
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
        if self.goes_on {
            return;
        }
        if self.reason == CloseReason::Internal {
            // Dropped in the middle of a phase: somebody wanted an end, or it is a bug.
            if let Some(end) = self.connection.traffic.told() {
                self.reason = reason(end);
            } else if *self.proxy.shutdown.borrow() {
                self.reason = CloseReason::Drained;
            }
        }
        self.proxy.census.strike(&self.connection);
        self.step("closed", || {
            let traffic = &self.connection.traffic;
            let (up, down, detail) = (traffic.up(), traffic.down(), self.detail);
            let separator = if detail.is_empty() { "" } else { ": " };
            format!(
                "{}{separator}{detail}, {up} bytes up, {down} down",
                self.reason
            )
        });
        self.observer().closed(self);
        self.log();
    }
}

#[cfg(test)]
pub(super) mod tests;
