//! Ending flows that have reached a limit. Nobody waits for a single one: the table is looked
//! through now and then, a thousand entries a system call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sni_router_common::flow::{Ended, Flow, FlowKey, since, tick};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::entry::{Entry, Moment};
use super::registry::{Registry, lock};
use super::sides::sides;
use crate::carry::End;
use crate::monotonic::now_ns;
use crate::sys::repair;

impl Registry {
    /// Ends flows that have reached a limit. Runs as long as the datapath is used.
    pub(super) async fn watch_limits(self: Arc<Self>) {
        let mut shutdown = self.limits.shutdown.clone();
        let shortest = self.limits.max_duration.unwrap_or(Duration::MAX);
        let shortest = shortest.min(self.limits.idle);
        let tick = (shortest / 4).clamp(SHORTEST_TICK, LONGEST_TICK);
        let mut rest = tick;
        loop {
            tokio::select! {
                () = sleep(rest) => {}
                told = shutdown.wait_for(|now| *now) => match told {
                    Ok(_) => return self.end_all(),
                    // A start that has failed, having adopted flows: they are the next router's.
                    Err(_) => return,
                },
            }
            let began = Instant::now();
            let registry = Arc::clone(&self);
            // On a thread of its own: with a million flows, others would wait for it.
            if let Err(error) = spawn_blocking(move || registry.look_at_all()).await {
                warn!(%error, "limits of flows were not looked at");
            }
            rest = tick.max(began.elapsed() * REST);
        }
    }

    /// Looks at every flow: which have moved on, which have lived for too long, and whose end was not noticed.
    pub(super) fn look_at_all(&self) {
        if lock(&self.entries).len() == 0 {
            return;
        }
        let (now, ticks) = (Moment::now(), tick(now_ns()));
        let (mut missed, mut over) = (Vec::new(), Vec::new());
        let looked = self.flows.table().for_each(|_, flow| {
            let mut entries = lock(&self.entries);
            let has_ended = entries.has_ended(flow.id);
            let Some(entry) = entries.get_mut(flow.id) else {
                return;
            };
            entry.look(flow, now);
            if flow.up == 0 {
                return;
            }
            if flow.closed != 0 {
                missed.extend((!has_ended).then_some(flow.id));
            } else if entry.is_left() && self.is_old(flow, ticks) {
                over.push((flow.id, End::MaxDuration));
            }
        });
        if let Err(error) = looked {
            return warn!(%error, "the flow table cannot be read");
        }
        for id in missed {
            self.notice(id);
        }
        over.extend(self.idle(now).into_iter().map(|id| (id, End::Idle)));
        for (id, end) in over {
            self.end(id, end);
        }
    }

    /// Whether a flow has lived for too long, by what the table has of its direction up. Up to two ticks late: it may have
    /// begun at the end of one.
    fn is_old(&self, up: &Flow, now: u32) -> bool {
        let max = self.limits.max_duration;
        max.is_some_and(|max| since(up.since_or_held.wrapping_add(1), now) >= max)
    }

    /// An event was lost: what it would have said is in the table.
    fn notice(&self, id: u32) {
        let keys = lock(&self.entries).get(id).map(Entry::keys);
        let both = keys.map(|keys| self.both(id, &keys));
        if let Some([Some(up), Some(down)]) = both {
            self.ended(&[Ended {
                id,
                end: up.closed.into(),
                up: up.bytes(),
                down: down.bytes(),
            }]);
        }
    }

    /// Flows that have been quiet for too long.
    fn idle(&self, now: Moment) -> Vec<u32> {
        let idle = |entry: &&Entry| now.since(entry.quiet_since) >= self.limits.idle;
        let entries = lock(&self.entries);
        let left = entries.iter().filter(|entry| entry.is_left());
        left.filter(idle).map(|entry| entry.id).collect()
    }

    fn end_all(&self) {
        let ids: Vec<_> = {
            let entries = lock(&self.entries);
            let left = entries.iter().filter(|entry| entry.is_left());
            left.map(|entry| entry.id).collect()
        };
        info!(flows = ids.len(), "ending what the kernel carries");
        for id in ids {
            self.end(id, End::Shutdown);
        }
    }

    /// Ends a flow that was left alone: nothing is passed on any more, and both sides are told.
    pub(super) fn end(&self, id: u32, end: End) {
        let (entry, keys, both) = {
            let mut entries = lock(&self.entries);
            let Some(entry) = entries.remove(id) else {
                return;
            };
            let keys = entry.keys();
            // Before others can make room in the table.
            let both = self.both(id, &keys);
            // The endpoint may still remember the connection.
            self.linger(id, keys);
            (entry, keys, both)
        };
        let bytes = both.map(|flow| flow.map_or(0, |flow| flow.bytes()));
        if let [Some(up), Some(down)] = both {
            self.remove(keys, id);
            reset_both(&up, &down);
        }
        if let Some(seat) = entry.seat {
            self.tell(seat, &keys, end, bytes);
        }
    }
}

/// Sends both sides a RST.
pub(super) fn reset_both(up: &Flow, down: &Flow) {
    // Each direction's packets go out as if from the other side.
    for (out, back) in [(down, up), (up, down)] {
        let (from, to) = sides(&FlowKey {
            src: out.src,
            dst: out.dst,
            ports: out.ports,
        });
        // What it acknowledged last is what it expects next.
        if let Err(error) = repair::reset(from, to, back.ack, back.end as u32) {
            debug!(%error, %to, "one side was not told that its connection is over");
        }
    }
}

/// To look takes half a hundredth of one CPU at most: limits of very many flows are noticed later.
const REST: u32 = 200;
const SHORTEST_TICK: Duration = Duration::from_millis(10);
const LONGEST_TICK: Duration = Duration::from_secs(30);
