//! Flows that an earlier process has left in the table, and leaving them there.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Instant;

use foldhash::HashMap;
use sni_router_common::flow::{Flow, FlowKey, own, since, tick};
use tracing::info;

use super::entry::{Entry, position};
use super::registry::{Registry, lock};
use super::sides::ends;
use crate::carry::{Adopt, End, Kind, Orphan};
use crate::monotonic::now_ns;

impl Registry {
    /// Takes over what an earlier process has left in the table, and tells how many of it live.
    /// With `is_alone`, nobody goes on with what was left in the middle of its hand-over.
    pub(super) fn adopt(&self, adopter: &dyn Adopt, is_alone: bool) -> io::Result<usize> {
        if self.is_retired() {
            return Ok(0);
        }
        let (mut ups, mut downs) = (Vec::new(), HashMap::<_, Down>::default());
        self.flows.table().for_each(|key, flow| {
            // Of a million that are looked at again, most are.
            if self.knows(flow.id, &down_of(key, flow)) {
                return;
            }
            if flow.up == 1 {
                ups.push((*key, *flow));
            } else {
                downs.insert(*key, flow.into());
            }
        })?;
        let mut adopted = 0;
        // Once this process has left its flows, what is in the middle is its successor's.
        let is_alone = || is_alone && !self.is_retired();
        for (key, up) in ups {
            let keys = [key, FlowKey::answers(&up)];
            if self.knows(up.id, &keys[1]) {
                // Ours by now; its other direction may have come when the walk was past it.
                continue;
            }
            match downs.remove(&keys[1]) {
                Some(down) if down.id == up.id => {
                    adopted += usize::from(self.adopt_one(keys, &up, &down, adopter, is_alone()));
                }
                _ if is_alone() => self.remove_half(key, &keys[1], up.id),
                _ => {}
            }
        }
        for (key, down) in downs {
            if is_alone() && !self.knows(down.id, &key) {
                self.remove_half(key, &key, down.id);
            }
        }
        Ok(adopted)
    }

    /// Of a flow whose router was killed between the two directions, in one order or the other; unless it has been
    /// removed since the walk came by, and its port is another's.
    fn remove_half(&self, key: FlowKey, down: &FlowKey, id: u32) {
        let flow = self.flows.table().flow(&key);
        if flow.is_none_or(|flow| flow.id != id) {
            return;
        }
        self.remove([key], id);
        let port = self.ports.of(down);
        self.ports.hold(port);
        self.ports.linger(port, Instant::now());
    }

    /// Whether a flow with this key of its endpoint's direction lives here, or lingers.
    fn knows(&self, id: u32, key: &FlowKey) -> bool {
        lock(&self.entries).contains(id) || lock(&self.lingering).has(self.ports.of(key), id)
    }

    /// Of one that nobody here knows. False for one that is over, was left in the middle of its hand-over, or is a
    /// successor's to adopt.
    fn adopt_one(
        &self,
        keys: [FlowKey; 2],
        up: &Flow,
        down: &Down,
        adopter: &dyn Adopt,
        is_alone: bool,
    ) -> bool {
        let id = up.id;
        // Far ahead of whoever still hands over, having been told to leave.
        self.next_id
            .fetch_max(id.wrapping_add(AHEAD), Ordering::Relaxed);
        if down.is_unsent && !is_alone {
            return false;
        }
        let port = self.ports.of(&keys[1]);
        let age = since(up.since_or_held, tick(now_ns()));
        {
            // Who leaves all looks at the entries once.
            let mut entries = lock(&self.entries);
            if self.is_retired() {
                return false;
            }
            if up.closed != 0 {
                // It may have been removed since the walk came by, and its port be another's.
                if self.both(id, &keys)[0].is_some() {
                    self.ports.hold(port);
                    self.linger(id, keys);
                }
                return false;
            }
            self.ports.hold(port);
            entries.insert(Entry::new(id, &keys, [position(up), down.position]));
        }
        // Only now, since it can be told to end as soon as somebody knows of it.
        let seat = adopter.adopt(Orphan {
            number: id,
            ends: ends(&keys),
            age,
            kind: Kind::Tc,
        });
        self.keep(id, keys, seat);
        if down.is_unsent {
            // Who would have sent the rest is gone.
            self.end(id, End::Failed);
            return false;
        }
        true
    }

    /// Leaves every flow to the kernel.
    pub(super) fn leave_all(&self) {
        self.is_retired.store(true, Ordering::SeqCst);
        let left: Vec<_> = {
            let entries = lock(&self.entries);
            let left = entries.iter().filter(|entry| entry.is_left());
            left.map(|entry| entry.id).collect()
        };
        if !left.is_empty() {
            info!(flows = left.len(), "left to the kernel");
        }
        for id in left {
            // One at a time, since there may be a million; none comes any more.
            let Some(entry) = lock(&self.entries).remove(id) else {
                continue;
            };
            let keys = entry.keys();
            if let (Some(seat), Some(keeper)) = (entry.seat, self.keeper.get()) {
                keeper.left(seat, ends(&keys));
            }
        }
    }
}

/// The key of the endpoint's direction of a flow that has this key.
fn down_of(key: &FlowKey, flow: &Flow) -> FlowKey {
    match flow.up {
        1 => FlowKey::answers(flow),
        _ => *key,
    }
}

/// What has to be known of an endpoint's direction. There may be a million, all at once.
struct Down {
    id: u32,
    position: u16,
    is_unsent: bool,
}

impl From<&Flow> for Down {
    fn from(flow: &Flow) -> Self {
        Self {
            id: flow.id,
            position: position(flow),
            is_unsent: flow.own & (own::HELD | own::GUARDED) != 0,
        }
    }
}

/// More flows than anybody hands over in the time that it takes to leave.
const AHEAD: u32 = 1 << 20;
