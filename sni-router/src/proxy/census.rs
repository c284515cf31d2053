//! All connections that were accepted and are not over, for whoever asks and whoever ends them.
//!
//! A connection is written down when it is accepted and struck off by its record's drop. What becomes
//! known of it in between is set once each, so that nobody waits for a reader.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use foldhash::HashMap;
use sni_router_core::name::Host;
use sni_router_core::table::{Front, Route};

use crate::carry::{Aside, End, Kind, Live, Moved, Traffic};
use crate::compact::CompactAddr;
use crate::monotonic::now_ns;

/// A connection, from accept to close. There may be a million of them, idle for hours: see its size
/// below.
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
    /// By the wall clock: milliseconds since 1970.
    start_ms: u64,
    /// By the monotonic clock.
    started_ns: u64,
    /// See [`Connection::datapath`].
    datapath: AtomicU8,
    /// See [`Connection::aside`].
    aside: AtomicU64,
}

impl Connection {
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
        UNIX_EPOCH + Duration::from_millis(self.start_ms)
    }

    /// How long ago it was accepted.
    pub fn age(&self) -> Duration {
        Duration::from_nanos(now_ns().saturating_sub(self.started_ns))
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

    /// The number by which [`Aside`] knows it, if the kernel carries it alone.
    fn aside(&self) -> Option<u32> {
        u32::try_from(self.aside.load(Ordering::SeqCst)).ok()
    }
}

/// By number.
type Shard = HashMap<u64, Arc<Connection>>;

/// See the module.
pub struct Census {
    next: AtomicU64,
    shards: [Mutex<Shard>; SHARDS],
    aside: Option<Arc<dyn Aside>>,
    live: Option<Arc<dyn Live>>,
}

impl Census {
    /// Of nobody yet. `aside` has what the kernel carries alone, if it does, and `live` the counts of
    /// what it moves between sockets.
    pub fn new(aside: Option<Arc<dyn Aside>>, live: Option<Arc<dyn Live>>) -> Self {
        Self {
            next: AtomicU64::new(1),
            shards: std::array::from_fn(|_| Mutex::default()),
            aside,
            live,
        }
    }

    /// Writes down a connection that was accepted `age` ago.
    pub fn enter(
        &self,
        client: SocketAddr,
        vip: SocketAddr,
        listener: Option<Arc<Front>>,
        age: Duration,
    ) -> Arc<Connection> {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall = wall.unwrap_or_default().saturating_sub(age);
        let connection = Arc::new(Connection {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            client: client.into(),
            vip: vip.into(),
            listener,
            host: OnceLock::new(),
            route: OnceLock::new(),
            endpoint: OnceLock::new(),
            traffic: Traffic::default(),
            start_ms: wall.as_millis() as u64,
            started_ns: now_ns().saturating_sub(age.as_nanos() as u64),
            datapath: AtomicU8::new(u8::MAX),
            aside: AtomicU64::new(u64::MAX),
        });
        self.shard(connection.id)
            .insert(connection.id, Arc::clone(&connection));
        connection
    }

    /// It is over.
    pub(super) fn strike(&self, connection: &Connection) {
        self.shard(connection.id).remove(&connection.id);
    }

    /// The kernel carries it alone, as `number`.
    pub(super) fn set_aside(&self, connection: &Connection, number: u32) {
        connection.aside.store(number.into(), Ordering::SeqCst);
        fence(Ordering::SeqCst);
        // Whoever told it to end a moment ago may not have seen the number.
        if let Some(end) = connection.traffic.told() {
            self.end(connection, end);
        }
    }

    /// Connections that are not over.
    pub fn count(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// How many are as `wanted` says.
    pub fn count_of(&self, wanted: impl Fn(&Connection) -> bool) -> usize {
        let of = |shard: &Mutex<Shard>| lock(shard).values().filter(|it| wanted(it)).count();
        self.shards.iter().map(of).sum()
    }

    /// One connection.
    pub fn get(&self, id: u64) -> Option<Arc<Connection>> {
        self.shard(id).get(&id).cloned()
    }

    /// Those that `wanted` says, in no order. It must be quick: connections may have to wait for it.
    pub fn filter(&self, wanted: impl Fn(&Connection) -> bool) -> Vec<Arc<Connection>> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            found.extend(shard.values().filter(|it| wanted(it)).cloned());
        }
        found
    }

    /// What a connection has moved so far.
    pub fn moved(&self, connection: &Connection) -> Moved {
        let aside = connection.aside().zip(self.aside.as_ref());
        aside
            .and_then(|(number, aside)| aside.moved(number))
            .unwrap_or_else(|| {
                if let Some(live) = &self.live {
                    connection.traffic.refresh(&**live);
                }
                connection.traffic.moved()
            })
    }

    /// Has a connection ended, if it is not over. Both sides see that it was cut.
    pub fn end(&self, connection: &Connection, end: End) {
        connection.traffic.tell(end);
        // Whoever sets it aside sees the word, or we see the number.
        fence(Ordering::SeqCst);
        if let Some((number, aside)) = connection.aside().zip(self.aside.as_ref()) {
            aside.end(number, end);
        }
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, Shard> {
        lock(&self.shards[id as usize % SHARDS])
    }
}

/// A thread that panicked while holding it leaves it as good as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// With the two counts of an `Arc` this makes 224 bytes, which is a size that the allocator has.
const _: () = assert!(size_of::<Connection>() <= 208);

/// Workers that accept at the same time rarely meet in one, and who reads holds up few of them.
const SHARDS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(census: &Census, port: u16) -> Arc<Connection> {
        let client = SocketAddr::from(([192, 0, 2, 1], port));
        let vip = SocketAddr::from(([198, 51, 100, 1], 443));
        census.enter(client, vip, None, Duration::ZERO)
    }

    #[test]
    fn connection_is_found_until_it_is_over() {
        let census = Census::new(None, None);
        let all: Vec<_> = (1..=200).map(|port| enter(&census, port)).collect();
        assert_eq!(census.count(), 200);
        assert_eq!(census.get(all[7].id).unwrap().client(), all[7].client());
        let few = census.filter(|connection| connection.client().port() < 4);
        assert_eq!(few.len(), 3);
        census.strike(&all[0]);
        assert_eq!(census.count(), 199);
        assert!(census.get(all[0].id).is_none());
    }

    #[test]
    fn end_reaches_the_kernel_in_either_order() {
        #[derive(Default)]
        struct Kernel(Mutex<Vec<(u32, End)>>);
        impl Aside for Kernel {
            fn moved(&self, _: u32) -> Option<Moved> {
                None
            }
            fn end(&self, number: u32, end: End) {
                self.0.lock().unwrap().push((number, end));
            }
        }
        let kernel = Arc::new(Kernel::default());
        let census = Census::new(Some(Arc::clone(&kernel) as _), None);
        let (first, second) = (enter(&census, 1), enter(&census, 2));
        census.set_aside(&first, 7);
        census.end(&first, End::Closed);
        census.end(&second, End::Denied);
        census.set_aside(&second, 8);
        let told = kernel.0.lock().unwrap().clone();
        assert_eq!(told, [(7, End::Closed), (8, End::Denied)]);
    }

    #[tokio::test]
    async fn end_is_heard_by_who_listens_later_and_the_first_word_counts() {
        let census = Census::new(None, None);
        let connection = enter(&census, 1);
        census.end(&connection, End::Closed);
        census.end(&connection, End::Denied);
        assert_eq!(connection.traffic.hear().await, End::Closed);
        assert_eq!(connection.traffic.hear().await, End::Closed);
    }
}
