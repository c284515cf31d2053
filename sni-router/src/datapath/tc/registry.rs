//! The daemon's side of the flow table: who waits for the end of which flow, and which flows have
//! ended and linger.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sni_router_common::flow::{self, Flow, FlowKey};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use super::learn::{Plan, Sides};
use super::ports::{self, Ports};
use super::source::SourcePort;
use crate::carry::{Direction, End, Traffic};
use crate::datapath::bpf::Flows;
use crate::sys::repair;

/// See the module.
pub(super) struct Registry {
    flows: Arc<Flows>,
    next_id: AtomicU32,
    waiting: Mutex<HashMap<u32, Arc<Waiter>>>,
    lingering: Mutex<Lingering>,
    ports: Arc<Ports>,
}

/// Who waits for the end of a flow.
struct Waiter {
    /// A [`flow::End`]; 0 while it lives.
    end: AtomicU8,
    changed: Notify,
    up: FlowKey,
}

/// Entries that stay for what is still under way.
#[derive(Default)]
struct Lingering {
    /// By what is unique among all flows: the endpoint, and our port towards it.
    flows: HashMap<(SocketAddr, u16), Ended>,
    /// In the order in which they ended.
    order: VecDeque<(Instant, SocketAddr, u16, u32)>,
}

/// A flow that has ended.
struct Ended {
    keys: [FlowKey; 2],
    id: u32,
}

/// A connection that is in the flow table.
pub(super) struct Carried {
    registry: Arc<Registry>,
    waiter: Arc<Waiter>,
    sides: Sides,
    id: u32,
    /// Positions at which the streams started.
    start: [u64; 2],
    source: Option<SourcePort>,
}

impl Registry {
    pub(super) fn new(flows: Arc<Flows>, ports: Arc<Ports>) -> Self {
        Self {
            flows,
            next_id: AtomicU32::new(1),
            waiting: Mutex::default(),
            lingering: Mutex::default(),
            ports,
        }
    }

    /// Puts both directions into the table: the endpoint's first, which has nothing to say yet.
    pub(super) fn insert(
        self: &Arc<Self>,
        sides: Sides,
        plan: &mut Plan,
        received: u32,
        source: SourcePort,
    ) -> Result<Carried, (io::Error, SourcePort)> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        plan.up.id = id;
        plan.down.id = id;
        let (up, down) = (sides.up(), sides.down());
        let waiter = Arc::new(Waiter {
            end: AtomicU8::new(0),
            changed: Notify::new(),
            up,
        });
        lock(&self.waiting).insert(id, Arc::clone(&waiter));
        let inserted = self.flows.insert(&down, &plan.down).and_then(|()| {
            self.flows
                .insert(&up, &plan.up)
                .inspect_err(|_| self.flows.remove(&down))
        });
        if let Err(error) = inserted {
            lock(&self.waiting).remove(&id);
            return Err((error, source));
        }
        Ok(Carried {
            registry: Arc::clone(self),
            waiter,
            sides,
            id,
            start: [plan.up.end - u64::from(received), plan.down.end],
            source: Some(source),
        })
    }

    /// The program says that a flow has ended.
    pub(super) fn ended(&self, id: u32, end: flow::End) {
        if let Some(waiter) = lock(&self.waiting).get(&id) {
            waiter.tell(end);
        }
    }

    /// For when events were lost.
    pub(super) fn look_at_all(&self) {
        let waiters: Vec<_> = lock(&self.waiting).values().cloned().collect();
        for waiter in waiters {
            match self.flows.flow(&waiter.up) {
                Some(flow) => {
                    if let Some(end) = flow::End::of(flow.closed) {
                        waiter.tell(end);
                    }
                }
                None => waiter.tell(flow::End::Reopened),
            }
        }
    }

    /// Removes entries that have lingered long enough. Runs as long as the datapath is used.
    pub(super) async fn sweep(self: Arc<Self>) {
        let mut ticks = interval(SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = Instant::now();
            while let Some((endpoint, port, id)) = lock(&self.lingering).over(now) {
                self.remove_lingering(endpoint, port, Some(id));
            }
            self.ports.sweep(now);
        }
    }

    /// Removes the entries of an ended flow, whose port is needed; only if it is this one.
    pub(super) fn remove_lingering(&self, endpoint: SocketAddr, port: u16, only: Option<u32>) {
        let found = {
            let mut lingering = lock(&self.lingering);
            match lingering.flows.get(&(endpoint, port)) {
                Some(ended) if only.is_none_or(|id| id == ended.id) => {
                    lingering.flows.remove(&(endpoint, port))
                }
                _ => None,
            }
        };
        if let Some(found) = found {
            self.remove(&found);
        }
    }

    fn remove(&self, ended: &Ended) {
        for key in &ended.keys {
            // The client may have opened a new connection from the same port meanwhile.
            if self.flows.flow(key).is_some_and(|flow| flow.id == ended.id) {
                self.flows.remove(key);
            }
        }
    }
}

impl Waiter {
    fn tell(&self, end: flow::End) {
        // The first reason is the reason.
        let first = self
            .end
            .compare_exchange(0, end as u8, Ordering::Release, Ordering::Relaxed);
        if first.is_ok() {
            self.changed.notify_one();
        }
    }
}

impl Carried {
    /// Waits for the program to see the end.
    pub(super) async fn ended(&self) -> End {
        loop {
            if let Some(end) = self.end() {
                return end;
            }
            self.waiter.changed.notified().await;
        }
    }

    /// How it has ended.
    pub(super) fn end(&self) -> Option<End> {
        match flow::End::of(self.waiter.end.load(Ordering::Acquire))? {
            flow::End::Finished => Some(End::Done),
            // A client that opens a new connection from the same port has forgotten the old one.
            flow::End::ClientReset | flow::End::Reopened => Some(End::ClientReset),
            flow::End::EndpointReset => Some(End::EndpointReset),
        }
    }

    /// The client's direction as it is now.
    pub(super) fn up(&self) -> Option<Flow> {
        self.registry.flows.flow(&self.sides.up())
    }

    /// The endpoint's direction as it is now.
    pub(super) fn down(&self) -> Option<Flow> {
        self.registry.flows.flow(&self.sides.down())
    }

    /// Changes both directions by hand. Only while neither side has anything to say.
    pub(super) fn replace(&self, up: &Flow, down: &Flow) -> io::Result<()> {
        self.registry.flows.replace(&self.sides.up(), up)?;
        self.registry.flows.replace(&self.sides.down(), down)
    }

    /// What the program has seen of the client.
    pub(super) fn client_seen(&self) -> Option<flow::Seen> {
        self.registry.flows.seen(&self.sides.up())
    }

    /// A number that grows with every byte. The first time nothing is looked up: then it is what
    /// it was when the flow was made.
    pub(super) fn progress(&self) -> impl FnMut() -> u64 {
        let mut first = true;
        move || {
            if std::mem::take(&mut first) {
                return self.start[0].wrapping_add(self.start[1]);
            }
            let of = |flow: Option<Flow>| flow.map_or(0, |flow| flow.end);
            of(self.up()).wrapping_add(of(self.down()))
        }
    }

    /// Notes how much was carried.
    pub(super) fn count(&self, traffic: &Traffic) {
        for (direction, flow, start) in [
            (Direction::Up, self.up(), self.start[0]),
            (Direction::Down, self.down(), self.start[1]),
        ] {
            if let Some(flow) = flow {
                // A FIN counts as one.
                let fin = u64::from(flow.own & flow::own::FIN != 0);
                traffic.set(direction, flow.end.saturating_sub(start + fin));
            }
        }
    }

    /// Nothing is passed on any more.
    pub(super) fn forget(&self) {
        self.registry.flows.remove(&self.sides.up());
        self.registry.flows.remove(&self.sides.down());
    }

    /// Ends it: nothing is passed on any more, and both sides are told.
    pub(super) fn abort(&self) {
        let (up, down) = (self.up(), self.down());
        self.forget();
        let (Some(up), Some(down)) = (up, down) else {
            return;
        };
        let Sides {
            client,
            vip,
            source,
            endpoint,
        } = self.sides;
        for (from, to, sender) in [(vip, client, up), (source, endpoint, down)] {
            // What it acknowledged last is what it expects next.
            if let Err(error) = repair::reset(from, to, sender.ack, sender.end as u32) {
                debug!(%error, %to, "one side was not told that its connection is over");
            }
        }
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        lock(&self.registry.waiting).remove(&self.id);
        let Some(source) = self.source.take() else {
            return;
        };
        let ended = Ended {
            keys: [self.sides.up(), self.sides.down()],
            id: self.id,
        };
        let (endpoint, port) = (source.endpoint(), source.port());
        let mut lingering = lock(&self.registry.lingering);
        let order = (Instant::now(), endpoint, port, self.id);
        lingering.order.push_back(order);
        lingering.flows.insert((endpoint, port), ended);
        drop(lingering);
        // The port begins to rest only now: whoever takes it finds the entries.
        drop(source);
    }
}

impl Lingering {
    /// The next one that has lingered long enough.
    fn over(&mut self, now: Instant) -> Option<(SocketAddr, u16, u32)> {
        let is_over = |one: &mut (Instant, _, _, _)| now.duration_since(one.0) >= LINGER;
        let (_, endpoint, port, id) = self.order.pop_front_if(is_over)?;
        Some((endpoint, port, id))
    }
}

/// A thread that panicked while holding it leaves it as good as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As long as the kernel keeps connections in TIME_WAIT (TCP_TIMEWAIT_LEN, include/net/tcp.h).
const LINGER: Duration = Duration::from_secs(60);

// A port that is free again has no entries any more.
const _: () = assert!(LINGER.as_secs() + 2 * SWEEP.as_secs() < ports::LINGER.as_secs());

const SWEEP: Duration = Duration::from_secs(1);
