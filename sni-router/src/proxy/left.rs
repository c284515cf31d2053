//! Connections that have no task any more, since the kernel carries them alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sni_router_core::balance::Lease;

use super::Proxy;
use super::reason::CloseReason;
use super::record::Record;
use crate::carry::{Adopt, Direction, End, Orphan, Rest};

/// What is kept of a connection that the kernel carries alone.
pub(super) struct Left {
    record: Record,
    /// Not known of a connection that an earlier process accepted.
    _lease: Option<Lease>,
    _active: Active,
}

impl Left {
    pub(super) fn new(record: Record, lease: Option<Lease>, active: Active) -> Self {
        Self {
            record,
            _lease: lease,
            _active: active,
        }
    }
}

impl Rest for Left {
    fn ended(mut self: Box<Self>, end: End, up: u64, down: u64) {
        self.record.reason = reason(end);
        self.record.connection.traffic.raise(Direction::Up, up);
        self.record.connection.traffic.raise(Direction::Down, down);
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        if let Some(kind) = self.record.connection.datapath() {
            self.record.observer().carried(kind);
        }
    }
}

impl Adopt for Arc<Proxy> {
    fn adopt(&self, orphan: Orphan) -> Box<dyn Rest> {
        self.observer.adopted();
        self.observer.carrying(orphan.kind);
        let mut record = Record::new(self, orphan.client, orphan.vip, orphan.age);
        record.reason = CloseReason::Left;
        record.connection.connected_to(orphan.endpoint);
        record.connection.carried_by(orphan.kind);
        self.census.set_aside(&record.connection, orphan.number);
        Box::new(Left::new(record, None, Active::enter(self)))
    }
}

// Boxed, a size that the allocator has.
const _: () = assert!(size_of::<Left>() <= 80);

/// Counts a connection while it lives.
pub(super) struct Active(Arc<Proxy>);

impl Active {
    pub(super) fn enter(proxy: &Arc<Proxy>) -> Self {
        proxy.active.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(proxy))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
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
