//! Connections that have no task any more, since the kernel carries them alone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sni_router_core::balance::Lease;
use tokio::time::Instant;

use super::Proxy;
use super::reason::CloseReason;
use super::record::Record;
use crate::carry::{Adopt, Direction, End, Kind, Orphan, Rest};

/// What is kept of a connection that the kernel carries alone.
pub(super) struct Left {
    record: Record,
    kind: Kind,
    _lease: Lease,
    _active: Active,
}

impl Left {
    pub(super) fn new(record: Record, kind: Kind, lease: Lease, active: Active) -> Self {
        Self {
            record,
            kind,
            _lease: lease,
            _active: active,
        }
    }
}

impl Rest for Left {
    fn ended(mut self: Box<Self>, end: End, up: u64, down: u64) {
        self.record.reason = reason(end);
        self.record.traffic.set(Direction::Up, up);
        self.record.traffic.set(Direction::Down, down);
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        self.record.observer().carried(self.kind);
    }
}

impl Adopt for Arc<Proxy> {
    fn adopt(&self, orphan: Orphan) -> Box<dyn Rest> {
        self.observer.carrying(orphan.kind);
        Box::new(Adopted {
            orphan,
            adopted: Instant::now(),
            active: Active::enter(self),
        })
    }
}

/// A connection that an earlier process accepted: what its hello said is not known any more.
struct Adopted {
    orphan: Orphan,
    adopted: Instant,
    active: Active,
}

impl Adopted {
    fn record(&self) -> Record {
        let (proxy, orphan) = (&self.active.0, &self.orphan);
        let mut record = Record::new(
            Arc::clone(&proxy.observer),
            Arc::clone(&proxy.quota),
            proxy.shutdown.clone(),
            orphan.client,
            orphan.vip,
        );
        record.began(orphan.age + self.adopted.elapsed());
        let table = proxy.table.load();
        let listener = table.listener(orphan.vip);
        record.listener = listener.map(|listener| Arc::clone(&listener.front));
        record.endpoint = Some(orphan.endpoint);
        record.datapath = Some(orphan.kind);
        record.reason = CloseReason::Left;
        record
    }
}

impl Rest for Adopted {
    fn ended(self: Box<Self>, end: End, up: u64, down: u64) {
        let mut record = self.record();
        record.reason = reason(end);
        record.traffic.set(Direction::Up, up);
        record.traffic.set(Direction::Down, down);
    }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        self.active.0.observer.carried(self.orphan.kind);
    }
}

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
        End::Failed => CloseReason::Internal,
    }
}
