//! The daemon's side of the flow table: what this process keeps of each flow, and which flows have
//! ended and linger.
//!
//! ```text
//! Carried (being handed over) ──leave──▶ entry ──the program says that it has ended──▶ lingering
//!                                           └──a limit was reached: RST to both sides──▶ (gone)
//! ```
//!
//! `limits.rs` has the limits; `adopt.rs` what a process finds of an earlier one.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sni_router_common::flow::{self, Ended, Flow, FlowKey, since, tick};
use sni_router_common::handshake::Seen;
use tokio::time::{MissedTickBehavior, interval};

use super::entries::{Entries, Leaving};
use super::entry::{Entry, Moment, position};
use super::join::Plan;
use super::lingering::Lingering;
use super::ports::{self, Port, Ports};
use super::shortcuts::Shortcuts;
use super::sides::{Sides, ends};
use super::source::SourcePort;
use crate::carry::{Alone, End, Ends, Keeper, Limits, Moved, Seat};
use crate::datapath::bpf::{Flows, is_full};
use crate::meter::Meter;
use crate::monotonic::now_ns;

/// See the module. Who takes several locks takes that of the entries first, then that of those that linger, then that of
/// the ports.
pub(super) struct Registry {
    pub(super) flows: Arc<Flows>,
    pub(super) ports: Arc<Ports>,
    pub(super) limits: Limits,
    pub(super) shortcuts: Arc<Shortcuts>,
    /// Has the bytes of hellos; those of flows, the program counts.
    pub(super) meter: Meter,
    pub(super) next_id: AtomicU32,
    pub(super) entries: Mutex<Entries>,
    /// Knows what else there is to know of flows that are left alone.
    pub(super) keeper: OnceLock<Arc<dyn Keeper>>,
    pub(super) lingering: Mutex<Lingering>,
    /// Set before the entries are looked through for the last time.
    pub(super) is_retired: AtomicBool,
}

/// A flow that is being handed over, or was: in the table, and its sockets may still be there.
pub(super) struct Carried {
    registry: Arc<Registry>,
    sides: Sides,
    id: u32,
    /// Taken when the flow is left alone.
    source: Option<SourcePort>,
}

impl Registry {
    pub(super) fn new(
        flows: Arc<Flows>,
        ports: Arc<Ports>,
        limits: Limits,
        shortcuts: Arc<Shortcuts>,
        meter: Meter,
    ) -> Self {
        Self {
            flows,
            ports,
            limits,
            shortcuts,
            meter,
            // By chance, so that what an earlier process is still handing over has others.
            next_id: AtomicU32::new(RandomState::new().hash_one(()) as u32),
            entries: Mutex::default(),
            keeper: OnceLock::new(),
            lingering: Mutex::default(),
            is_retired: AtomicBool::new(false),
        }
    }

    /// Puts both directions into the table: the endpoint's first, which has nothing to say yet.
    pub(super) fn insert(
        self: &Arc<Self>,
        sides: Sides,
        plan: &mut Plan,
        source: SourcePort,
    ) -> Result<Carried, (io::Error, SourcePort)> {
        let (up, down) = (sides.up(), sides.down());
        let id = self.enter(&[up, down], [position(&plan.up), position(&plan.down)]);
        plan.up.id = id;
        plan.down.id = id;
        self.shortcuts.mark(&mut plan.up);
        self.shortcuts.mark(&mut plan.down);
        let inserted = self.insert_with_room(&down, &plan.down).and_then(|()| {
            self.insert_with_room(&up, &plan.up)
                .inspect_err(|_| self.flows.table().remove(&down))
        });
        if let Err(error) = inserted {
            lock(&self.entries).remove(id);
            return Err((error, source));
        }
        Ok(Carried {
            registry: Arc::clone(self),
            sides,
            id,
            source: Some(source),
        })
    }

    /// A table that is full gives up what has ended longest ago: at 17,000 connections a second it is full of those.
    fn insert_with_room(&self, key: &FlowKey, flow: &Flow) -> io::Result<()> {
        let table = self.flows.table();
        loop {
            match table.insert(key, flow) {
                Err(error) if is_full(&error) => {
                    let oldest = lock(&self.lingering).take_oldest();
                    let (keys, id) = oldest.ok_or(error)?;
                    self.remove(keys, id);
                }
                inserted => return inserted,
            }
        }
    }

    /// Under a number that no other flow has: there may be one that has outlived all numbers.
    fn enter(&self, keys: &[FlowKey; 2], seen: [u16; 2]) -> u32 {
        let mut entries = lock(&self.entries);
        loop {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            if !entries.contains(id) {
                entries.insert(Entry::new(id, keys, seen));
                return id;
            }
        }
    }

    /// Has the keeper told of the end of a flow that is left alone; at once where that has ended meanwhile.
    /// What was ended by us, or is somebody else's to watch, is left.
    pub(super) fn keep(&self, id: u32, keys: [FlowKey; 2], seat: Seat) {
        let leaving = {
            let mut entries = lock(&self.entries);
            match entries.leave(id, seat) {
                Leaving::Ended(seat, ended) => {
                    self.linger(id, keys);
                    Leaving::Ended(seat, ended)
                }
                Leaving::Left if self.is_retired() => {
                    let seat = entries.remove(id).and_then(|entry| entry.seat);
                    seat.map_or(Leaving::Left, Leaving::Gone)
                }
                leaving => leaving,
            }
        };
        match leaving {
            Leaving::Left => {}
            Leaving::Ended(seat, ended) => self.finish(&keys, seat, &ended),
            Leaving::Gone(seat) => {
                if let Some(keeper) = self.keeper.get() {
                    keeper.left(seat, ends(&keys));
                }
            }
        }
    }

    /// Whether whoever comes next watches the flows.
    pub(super) fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::SeqCst)
    }

    /// The program says that flows have ended.
    pub(super) fn ended(&self, batch: &[Ended]) {
        let over: Vec<_> = {
            let mut entries = lock(&self.entries);
            let over = batch.iter().filter_map(|ended| {
                let (seat, keys) = entries.end(ended)?;
                self.linger(ended.id, keys);
                Some((seat, keys, ended))
            });
            over.collect()
        };
        for (seat, keys, ended) in over {
            self.finish(&keys, seat, ended);
        }
    }

    /// Tells the keeper what the program has said.
    fn finish(&self, keys: &[FlowKey; 2], seat: Seat, ended: &Ended) {
        self.tell(seat, keys, end(ended), [ended.up, ended.down]);
    }

    /// Tells the keeper.
    pub(super) fn tell(&self, seat: Seat, keys: &[FlowKey; 2], end: End, bytes: [u64; 2]) {
        if let Some(keeper) = self.keeper.get() {
            let [up, down] = bytes;
            keeper.ended(seat, ends(keys), end, up, down);
        }
    }

    /// The entries in the kernel stay a while for what is still under way, and the port with them. To be called
    /// before others can look whether the flow is known: else somebody adopts it.
    pub(super) fn linger(&self, id: u32, keys: [FlowKey; 2]) {
        let port = self.ports.of(&keys[1]);
        lock(&self.lingering).push(Moment::now(), port, id, &keys);
        // The port begins to rest only now: whoever takes it finds the entries.
        self.ports.linger(port, Instant::now());
    }

    /// Removes entries that have lingered long enough. Runs as long as the datapath is used.
    pub(super) async fn sweep(self: Arc<Self>) {
        let mut ticks = interval(SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Not in the loop's condition, which would keep the lock.
            let over = lock(&self.lingering).take_over(Moment::now());
            for (keys, id) in over {
                self.remove(keys, id);
            }
            self.ports.sweep(Instant::now());
        }
    }

    /// Removes the entries of an ended flow, whose port is needed.
    pub(super) fn remove_lingering(&self, port: Port) {
        let found = lock(&self.lingering).take(port);
        if let Some((keys, id)) = found {
            self.remove(keys, id);
        }
    }

    /// Only what is this flow's: the client may have opened a new connection from the same port
    /// meanwhile, and our port may have been needed.
    pub(super) fn remove(&self, keys: impl IntoIterator<Item = FlowKey>, id: u32) {
        let table = self.flows.table();
        for key in keys {
            if table.flow(&key).is_some_and(|flow| flow.id == id) {
                table.remove(&key);
            }
        }
    }

    /// Entries of ours in the kernel's table, those that linger included.
    pub(super) fn table_entries(&self) -> u64 {
        let living = lock(&self.entries).len();
        let lingering = lock(&self.lingering).len();
        2 * (living + lingering) as u64
    }

    /// Both directions of a flow as they are now.
    pub(super) fn both(&self, id: u32, keys: &[FlowKey; 2]) -> [Option<Flow>; 2] {
        [0, 1].map(|index| {
            self.flows
                .table()
                .flow(&keys[index])
                .filter(|flow| flow.id == id)
        })
    }
}

impl Registry {
    /// Between whom a flow is; `None` if it is over.
    pub(super) fn ends(&self, id: u32) -> Option<Ends> {
        let keys = lock(&self.entries).get(id)?.keys();
        Some(ends(&keys))
    }

    /// What a flow that was left alone has moved; `None` if it is over.
    pub(super) fn moved(&self, id: u32) -> Option<Moved> {
        let keys = lock(&self.entries).get(id)?.keys();
        let [Some(up), Some(down)] = self.both(id, &keys) else {
            return None;
        };
        let now = tick(now_ns());
        Some(Moved {
            up: up.bytes(),
            down: down.bytes(),
            idle: since(up.seen, now).min(since(down.seen, now)),
        })
    }
}

impl Carried {
    /// The endpoint's direction as it is now; `None` once the flow has ended, also if nobody has
    /// said so yet.
    pub(super) fn living(&self) -> Option<Flow> {
        self.down().filter(|down| down.closed == 0)
    }

    /// The client's direction as it is now.
    pub(super) fn up(&self) -> Option<Flow> {
        let up = self.registry.flows.table().flow(&self.sides.up());
        up.filter(|flow| flow.id == self.id)
    }

    /// The endpoint's direction as it is now.
    pub(super) fn down(&self) -> Option<Flow> {
        let down = self.registry.flows.table().flow(&self.sides.down());
        down.filter(|flow| flow.id == self.id)
    }

    /// Changes both directions by hand. Only while neither side has anything to say.
    pub(super) fn replace(&self, up: &Flow, down: &Flow) -> io::Result<()> {
        self.registry.flows.table().replace(&self.sides.up(), up)?;
        self.registry
            .flows
            .table()
            .replace(&self.sides.down(), down)
    }

    /// What the program has seen of the client.
    pub(super) fn client_seen(&self) -> Option<Seen> {
        self.registry.flows.handshakes().seen(&self.sides.up())
    }

    /// Nothing is passed on any more.
    pub(super) fn forget(&self) {
        let keys = [self.sides.up(), self.sides.down()];
        self.registry.remove(keys, self.id);
    }
}

impl Alone for Carried {
    fn number(&self) -> u32 {
        self.id
    }

    fn leave(mut self: Box<Self>, seat: Seat) {
        if let Some(source) = self.source.take() {
            source.leave();
        }
        let keys = [self.sides.up(), self.sides.down()];
        self.registry.keep(self.id, keys, seat);
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        // Given up in the middle: the sockets tell both sides, and the port rests.
        if self.source.take().is_some() {
            self.forget();
            lock(&self.registry.entries).remove(self.id);
        }
    }
}

fn end(ended: &Ended) -> End {
    match u8::try_from(ended.end).ok().and_then(flow::End::of) {
        Some(flow::End::ClientReset) => End::ClientReset,
        Some(flow::End::EndpointReset) => End::EndpointReset,
        Some(flow::End::Finished) | None => End::Done,
    }
}

/// A thread that panicked while holding it leaves it as good as it was.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// A port that is free again has no entries any more.
const _: () =
    assert!(super::lingering::LINGER.as_secs() + 2 * SWEEP.as_secs() < ports::LINGER.as_secs());

const SWEEP: Duration = Duration::from_secs(1);
