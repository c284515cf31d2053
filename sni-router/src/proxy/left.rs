//! Connections that have no task any more, since the kernel carries them alone.
//!
//! ```text
//! Record ──keep (a seat)──▶ Left ──its flow has ended, or outlives the process──▶ Record ──drop──▶ written
//!                            └──somebody asks──▶ Connection, made again
//! ```

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sni_router_core::balance::Lease;

use super::Proxy;
use super::connection::{Accepted, Connection};
use super::profile::Profile;
use super::reason::CloseReason;
use super::record::Record;
use crate::carry::{Adopt, Alone, Direction, End, Ends, Keeper, Kind, Orphan, Seat};
use crate::compact::U48;

/// What is kept of a connection that the kernel carries alone: little, since there may be a million. Its
/// addresses, the datapath has.
pub(super) struct Left {
    pub(super) known: Known,
    /// Not known of a connection that an earlier process accepted.
    lease: Option<Lease>,
}

/// What others may see of it.
#[derive(Clone)]
pub(super) struct Known {
    profile: Arc<Profile>,
    /// By which [`Aside`](crate::carry::Aside) knows it.
    pub(super) number: u32,
    id: U48,
    accepted: [U48; 2],
    kind: Option<Kind>,
    /// Whether it is to be found here.
    pub(super) is_shown: bool,
}

impl Known {
    /// The connection's number.
    pub(super) fn id(&self) -> u64 {
        self.id.get()
    }

    /// Whether its listener is not known.
    pub(super) fn is_nameless(&self) -> bool {
        self.profile.listener.is_none()
    }

    /// Takes this as what is known of it, and answers with what was before.
    pub(super) fn rename(&mut self, profile: Arc<Profile>) -> Arc<Profile> {
        mem::replace(&mut self.profile, profile)
    }

    /// The connection, as it was, but for what it has moved.
    pub(super) fn connection(&self, ends: Ends) -> Connection {
        let (listener, accepted) = (self.profile.listener.clone(), Accepted::long(self.accepted));
        let connection = Connection::new(self.id(), ends.client, ends.vip, listener, accepted);
        if let Some(host) = &self.profile.host {
            // Nobody else has set it, nor the route.
            let _ = connection.host.set(host.clone());
        }
        if let Some(route) = &self.profile.route {
            let _ = connection.route.set(Arc::clone(route));
        }
        connection.connected_to(ends.endpoint);
        if let Some(kind) = self.kind {
            connection.carried_by(kind);
        }
        connection.set_aside(self.number);
        connection
    }
}

/// Leaves a connection to the kernel.
pub(super) fn leave(record: Record, lease: Option<Lease>, active: Active, flow: Box<dyn Alone>) {
    let connection = Arc::clone(&record.connection);
    let proxy = Arc::clone(&active.0);
    let number = flow.number();
    let seat = keep(&proxy, record, lease, number);
    let place = seat.number();
    // From now on it is counted as one that is left.
    drop(active);
    flow.leave(seat);
    proxy.census.set_aside(&connection, number, place);
}

/// Keeps what is known of it. Nobody finds it at its seat before it is set aside.
fn keep(proxy: &Proxy, record: Record, lease: Option<Lease>, number: u32) -> Seat {
    let connection = Arc::clone(&record.connection);
    let known = Known {
        profile: proxy.profiles.of(record.into_profile()),
        number,
        id: U48::new(connection.id),
        accepted: connection.accepted().short(),
        kind: connection.datapath(),
        is_shown: false,
    };
    proxy.census.keep(Left { known, lease })
}

impl Keeper for Arc<Proxy> {
    fn ended(&self, seat: Seat, ends: Ends, end: End, up: u64, down: u64) {
        over(self, seat, ends, reason(end), [up, down]);
    }

    fn left(&self, seat: Seat, ends: Ends) {
        over(self, seat, ends, CloseReason::Left, [0, 0]);
    }
}

/// The connection of this seat is none of ours any more.
fn over(proxy: &Arc<Proxy>, seat: Seat, ends: Ends, reason: CloseReason, bytes: [u64; 2]) {
    // The process waits until all that was said of it is written.
    let _active = Active::enter(proxy);
    let Some(Left {
        known,
        lease: _lease,
    }) = proxy.census.take(&seat)
    else {
        return;
    };
    if let Some(kind) = known.kind {
        proxy.observer.carried(kind);
    }
    let connection = known.connection(ends);
    let [up, down] = bytes;
    connection.traffic.raise(Direction::Up, up);
    connection.traffic.raise(Direction::Down, down);
    drop(Record::again(proxy, connection, &known.profile, reason));
    proxy.profiles.give_back(known.profile);
}

impl Adopt for Arc<Proxy> {
    fn adopt(&self, orphan: Orphan) -> Seat {
        let Orphan {
            number,
            ends,
            age,
            kind,
        } = orphan;
        let record = Record::new(self, ends.client, ends.vip, age);
        self.observer.adopted();
        self.observer.carrying(kind);
        if let Some(listener) = &record.connection.listener {
            self.observer.adopted_by(listener);
        }
        let connection = Arc::clone(&record.connection);
        connection.carried_by(kind);
        let seat = keep(self, record, None, number);
        self.census.set_aside(&connection, number, seat.number());
        seat
    }
}

impl Proxy {
    /// Finds the listeners of those that were adopted before there was a table.
    pub fn name_adopted(&self) {
        let table = self.table.load();
        for (seat, known, ends) in self.census.nameless() {
            let Some(listener) = table.listener(ends.vip) else {
                continue;
            };
            let profile = self.profiles.of(Profile {
                listener: Some(Arc::clone(&listener.front)),
                ..Profile::clone(&known.profile)
            });
            let spare = match self.census.rename(seat, known.id(), profile) {
                Ok(before) => {
                    self.observer.adopted_by(&listener.front);
                    before
                }
                Err(profile) => profile,
            };
            drop(known);
            self.profiles.give_back(spare);
        }
    }
}

// What a connection takes here.
const _: () = assert!(size_of::<Option<Left>>() == 40);

/// Counts a connection while it lives, unless the kernel carries it alone.
pub(super) struct Active(Arc<Proxy>);

impl Active {
    pub(super) fn enter(proxy: &Arc<Proxy>) -> Self {
        proxy.active.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(proxy))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::AcqRel);
    }
}

/// As records have it.
pub(super) fn reason(end: End) -> CloseReason {
    match end {
        End::Done => CloseReason::Done,
        End::ClientReset => CloseReason::ClientReset,
        End::EndpointReset => CloseReason::EndpointReset,
        End::Idle => CloseReason::IdleTimeout,
        End::MaxDuration => CloseReason::MaxDuration,
        End::Shutdown => CloseReason::Drained,
        End::Closed => CloseReason::Closed,
        End::Denied => CloseReason::Denied,
        End::Failed => CloseReason::Internal,
    }
}

#[cfg(test)]
mod tests;
