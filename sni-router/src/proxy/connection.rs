//! A connection as others see it while it lives.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sni_router_core::name::Host;
use sni_router_core::table::{Front, Route};

use crate::carry::{Kind, Traffic};
use crate::compact::{CompactAddr, U48};
use crate::monotonic::now_ns;

/// A connection, from accept to close. One that the kernel carries alone is kept as a
/// [`Left`](super::left::Left), of which there may be a million, and made again for whoever asks.
#[derive(Debug)]
pub struct Connection {
    /// Its number, of this process; never given twice.
    pub id: u64,
    client: CompactAddr,
    vip: CompactAddr,
    /// The listener of that address.
    pub listener: Option<Arc<Front>>,
    /// The server name in its hello.
    pub host: OnceLock<Host>,
    /// The route of that name.
    pub route: OnceLock<Arc<Route>>,
    endpoint: OnceLock<CompactAddr>,
    /// What it moves, as long as this process moves it.
    pub traffic: Traffic,
    accepted: Accepted,
    /// See [`Connection::datapath`].
    datapath: AtomicU8,
    /// See [`Connection::aside`].
    aside: AtomicU64,
}

impl Connection {
    /// One of which no more is known yet.
    pub(super) fn new(
        id: u64,
        client: SocketAddr,
        vip: SocketAddr,
        listener: Option<Arc<Front>>,
        accepted: Accepted,
    ) -> Self {
        Self {
            id,
            client: client.into(),
            vip: vip.into(),
            listener,
            host: OnceLock::new(),
            route: OnceLock::new(),
            endpoint: OnceLock::new(),
            traffic: Traffic::default(),
            accepted,
            datapath: AtomicU8::new(u8::MAX),
            aside: AtomicU64::new(u64::MAX),
        }
    }

    /// The client's address.
    pub fn client(&self) -> SocketAddr {
        self.client.into()
    }

    /// The address the client connected to.
    pub fn vip(&self) -> SocketAddr {
        self.vip.into()
    }

    /// The endpoint connected to.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        self.endpoint.get().copied().map(Into::into)
    }

    /// It has this endpoint.
    pub fn connected_to(&self, endpoint: SocketAddr) {
        // Nobody else has set it.
        let _ = self.endpoint.set(endpoint.into());
    }

    /// When it was accepted, by the wall clock, which may have been set since; not before 1970.
    pub fn start(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.accepted.wall_ms)
    }

    /// How long ago it was accepted.
    pub fn age(&self) -> Duration {
        Duration::from_nanos(now_ns().saturating_sub(self.accepted.monotonic_ns))
    }

    /// When it was accepted.
    pub(super) fn accepted(&self) -> Accepted {
        self.accepted
    }

    /// The datapath that carries it; `None` before one does.
    pub fn datapath(&self) -> Option<Kind> {
        let index = self.datapath.load(Ordering::Relaxed);
        Kind::ALL.get(usize::from(index)).copied()
    }

    /// A datapath takes it.
    pub(super) fn carried_by(&self, kind: Kind) {
        self.datapath.store(kind as u8, Ordering::Relaxed);
    }

    /// The number by which [`Aside`](crate::carry::Aside) knows it, if the kernel carries it alone.
    pub(super) fn aside(&self) -> Option<u32> {
        u32::try_from(self.aside.load(Ordering::SeqCst)).ok()
    }

    /// The kernel carries it alone, as `number`.
    pub(super) fn set_aside(&self, number: u32) {
        self.aside.store(number.into(), Ordering::SeqCst);
    }
}

/// When a connection was accepted, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepted {
    /// Since 1970.
    wall_ms: u64,
    monotonic_ns: u64,
}

impl Accepted {
    /// So long ago.
    pub(super) fn ago(age: Duration) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall = wall.unwrap_or_default().saturating_sub(age);
        Self {
            wall_ms: wall.as_millis() as u64,
            monotonic_ns: now_ns().saturating_sub(age.as_nanos() as u64),
        }
    }

    /// In less room, to the millisecond.
    pub(super) fn short(self) -> [U48; 2] {
        [self.wall_ms, self.monotonic_ns / NS_PER_MS].map(U48::new)
    }

    /// What was made short.
    pub(super) fn long([wall, monotonic]: [U48; 2]) -> Self {
        Self {
            wall_ms: wall.get(),
            monotonic_ns: monotonic.get() * NS_PER_MS,
        }
    }
}

const NS_PER_MS: u64 = 1_000_000;

// With the two counts of an `Arc` this makes 224 bytes, which is a size that the allocator has.
const _: () = assert!(size_of::<Connection>() <= 208);
