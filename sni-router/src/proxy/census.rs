//! All connections that were accepted and are not over, for whoever asks and whoever ends them.
//!
//! A connection is written down when it is accepted and struck off by its record's drop. What becomes
//! known of it in between is set once each, so that nobody waits for a reader. One that is left to the kernel
//! is written down anew, in less room, until its flow is over.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::HashMap;
use sni_router_core::table::Front;

use super::connection::{Accepted, Connection};
use super::left::{Known, Left};
use super::profile::Profile;
use crate::carry::{Aside, End, Ends, Live, Moved, Seat};
use crate::slab::Slab;

/// By number.
type Shard = HashMap<u64, Arc<Connection>>;

/// See the module.
pub struct Census {
    next: AtomicU64,
    shards: [Mutex<Shard>; SHARDS],
    /// Those that the kernel carries alone.
    left: Mutex<Slab<Left>>,
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
            left: Mutex::default(),
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
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Connection::new(id, client, vip, listener, Accepted::ago(age));
        let connection = Arc::new(connection);
        self.shard(connection.id)
            .insert(connection.id, Arc::clone(&connection));
        connection
    }

    /// It is over.
    pub(super) fn strike(&self, connection: &Connection) {
        self.shard(connection.id).remove(&connection.id);
    }

    /// Keeps what there is to know of a connection that is about to be left to the kernel. Until
    /// [`Self::set_aside`], it is seen as before.
    pub(super) fn keep(&self, left: Left) -> Seat {
        Seat::new(lock(&self.left).insert(left))
    }

    /// Takes out what was kept.
    pub(super) fn take(&self, seat: &Seat) -> Option<Left> {
        lock(&self.left).remove(seat.number())
    }

    /// The kernel carries it alone, as `number`, and may have ended it by now. What was kept of it is at
    /// this seat.
    pub(super) fn set_aside(&self, connection: &Connection, number: u32, seat: u32) {
        connection.set_aside(number);
        fence(Ordering::SeqCst);
        // Whoever told it to end a moment ago may not have seen the number.
        if let Some(end) = connection.traffic.told() {
            self.end(connection, end);
        }
        {
            let mut left = lock(&self.left);
            let left = left.get_mut(seat).map(|left| &mut left.known);
            // It may be another one's.
            if let Some(known) = left.filter(|known| known.id() == connection.id) {
                known.is_shown = true;
            }
        }
        // Only now, so that whoever looks at these first, and at those then, misses none.
        self.strike(connection);
    }

    /// How many the kernel carries alone.
    pub(super) fn left(&self) -> usize {
        lock(&self.left).len()
    }

    /// Connections that are not over. Who is being left to the kernel counts twice for a moment.
    pub fn count(&self) -> usize {
        let with_sockets: usize = self.shards.iter().map(|shard| lock(shard).len()).sum();
        with_sockets + self.left()
    }

    /// How many are as `wanted` says.
    pub fn count_of(&self, wanted: impl Fn(&Connection) -> bool) -> usize {
        self.filter(wanted).len()
    }

    /// One connection.
    pub fn get(&self, id: u64) -> Option<Arc<Connection>> {
        let found = self.shard(id).get(&id).cloned();
        found.or_else(|| {
            let known = |_, known: &Known| (known.id() == id).then(|| known.clone());
            let known = self.left_of(known).next()?;
            self.look(&known).map(Arc::new)
        })
    }

    /// Those that `wanted` says, by their numbers. It must be quick: connections may have to wait for it.
    pub fn filter(&self, wanted: impl Fn(&Connection) -> bool) -> Vec<Found> {
        let mut found = self.here(&wanted);
        let left = self.left_of(|seat, known| Some((seat, known.clone())));
        found.extend(left.filter_map(|(seat, known)| {
            wanted(&self.look(&known)?).then(|| Found::left(seat, &known))
        }));
        in_order(found)
    }

    /// Those of clients that `wanted` says. With a million connections, it does less than to make each of them.
    pub fn of_clients(&self, wanted: impl Fn(IpAddr) -> bool) -> Vec<Found> {
        let mut found = self.here(|connection| wanted(connection.client().ip()));
        let left = self.left_of(|seat, known| Some((Found::left(seat, known), known.number)));
        found.extend(left.filter_map(|(found, number)| {
            let ends = self.aside.as_ref()?.ends(number)?;
            wanted(ends.client.ip()).then_some(found)
        }));
        in_order(found)
    }

    /// Those that this process carries, or opens. To be looked at before those that are left, or one that
    /// is left in between is missed.
    fn here(&self, wanted: impl Fn(&Connection) -> bool) -> Vec<Found> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            let these = shard.values().filter(|it| wanted(it));
            found.extend(these.map(|it| Found {
                id: it.id,
                place: Place::Here(Arc::clone(it)),
            }));
        }
        found
    }

    /// What `of` says of those that the kernel carries alone. Others may come and go meanwhile.
    fn left_of<T>(&self, of: impl Fn(u32, &Known) -> Option<T>) -> impl Iterator<Item = T> {
        let chunks = lock(&self.left).chunks();
        (0..chunks).flat_map(move |chunk| {
            let left = lock(&self.left);
            let shown = left.chunk(chunk).filter(|(_, left)| left.known.is_shown);
            let these = shown.filter_map(|(seat, left)| of(seat, &left.known));
            these.collect::<Vec<_>>()
        })
    }

    /// Those that the kernel carries alone and of which the listener is not known: their seats, and between whom they are.
    pub(super) fn nameless(&self) -> impl Iterator<Item = (u32, Known, Ends)> {
        let nameless = |seat, known: &Known| known.is_nameless().then(|| (seat, known.clone()));
        self.left_of(nameless).filter_map(|(seat, known)| {
            let ends = self.aside.as_ref()?.ends(known.number)?;
            Some((seat, known, ends))
        })
    }

    /// Has this be what is known of the one that is at this seat as `id`. Answers with what was before; with
    /// what it was given, if that one is over.
    pub(super) fn rename(
        &self,
        seat: u32,
        id: u64,
        profile: Arc<Profile>,
    ) -> Result<Arc<Profile>, Arc<Profile>> {
        let mut left = lock(&self.left);
        match left.get_mut(seat).map(|left| &mut left.known) {
            Some(known) if known.id() == id => Ok(known.rename(profile)),
            _ => Err(profile),
        }
    }

    /// One that was found; `None` if it is over.
    pub fn found(&self, found: &Found) -> Option<Arc<Connection>> {
        let seat = match &found.place {
            Place::Here(connection) => return Some(Arc::clone(connection)),
            Place::Left { seat, .. } => *seat,
        };
        let known = lock(&self.left).get(seat).map(|left| left.known.clone());
        let known = known.filter(|known| known.id() == found.id);
        self.look(&known?).map(Arc::new)
    }

    /// The connection of which that is known; `None` if it is over.
    fn look(&self, known: &Known) -> Option<Connection> {
        let ends = self.aside.as_ref()?.ends(known.number)?;
        Some(known.connection(ends))
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

    /// Has one ended that was found.
    pub fn end_found(&self, found: &Found, end: End) {
        match &found.place {
            Place::Here(connection) => self.end(connection, end),
            Place::Left { number, .. } => {
                if let Some(aside) = &self.aside {
                    aside.end(*number, end);
                }
            }
        }
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, Shard> {
        lock(&self.shards[id as usize % SHARDS])
    }
}

/// A connection that was found. Small, since it may be one of a million.
pub struct Found {
    /// Its number.
    pub id: u64,
    place: Place,
}

enum Place {
    Here(Arc<Connection>),
    Left {
        seat: u32,
        /// By which [`Aside`] knows it.
        number: u32,
    },
}

impl Found {
    fn left(seat: u32, known: &Known) -> Self {
        Self {
            id: known.id(),
            place: Place::Left {
                seat,
                number: known.number,
            },
        }
    }
}

/// By their numbers. Who was left while others were looked at is there twice.
fn in_order(mut found: Vec<Found>) -> Vec<Found> {
    found.sort_unstable_by_key(|found| found.id);
    found.dedup_by_key(|found| found.id);
    found
}

/// A thread that panicked while holding it leaves it as good as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Workers that accept at the same time rarely meet in one, and who reads holds up few of them.
const SHARDS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::carry::Ends;

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
            fn ends(&self, _: u32) -> Option<Ends> {
                None
            }
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
        census.set_aside(&first, 7, 0);
        census.end(&first, End::Closed);
        census.end(&second, End::Denied);
        census.set_aside(&second, 8, 1);
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
