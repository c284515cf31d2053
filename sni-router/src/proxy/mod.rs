//! The connection path: accept → hello → route → connect → carry → close.
//!
//! One type a phase, each consumed by the next, each with its own deadline. How a connection
//! ended is a [`reason::CloseReason`], recorded exactly once by the guard that every connection holds.
//!
//! This module knows sockets and the route table; it does not know where the table comes from,
//! what a datapath does, or who counts.

pub mod census;
mod conn;
pub mod connect;
pub mod connection;
pub mod doorman;
mod facts;
pub mod gate;
mod hello;
mod left;
mod pending;
mod profile;
pub mod quota;
pub mod reason;
pub mod record;
mod reject;
mod seldom;
pub mod settings;
pub mod trace;
pub mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use sni_router_core::table::RouteTable;
use tokio::sync::watch;

use crate::carry::Datapath;
use census::Census;
use gate::Gate;
use pending::Pending;
use profile::Profiles;
use quota::Quota;
use record::Observer;
use seldom::Seldom;
use settings::Settings;
use trace::Trace;

/// What every connection needs, shared by all workers.
pub struct Proxy {
    settings: Settings,
    table: Arc<ArcSwap<RouteTable>>,
    datapath: Arc<dyn Datapath>,
    observer: Arc<dyn Observer>,
    quota: Arc<Quota>,
    census: Arc<Census>,
    gate: Arc<Gate>,
    trace: Arc<Trace>,
    pending: Arc<Pending>,
    /// That a connection could not be accepted.
    unaccepted: Seldom,
    /// What those have in common that the kernel carries alone.
    profiles: Profiles,
    /// Connections that this process carries, or opens.
    active: AtomicUsize,
    /// Becomes true when connections must end now.
    shutdown: watch::Receiver<bool>,
}

impl Proxy {
    /// Wires the parts together. `table` may be replaced at any time; a connection uses the one
    /// that is there when its hello is complete.
    pub fn new(
        settings: Settings,
        table: Arc<ArcSwap<RouteTable>>,
        datapath: Arc<dyn Datapath>,
        observer: Arc<dyn Observer>,
        census: Arc<Census>,
        gate: Arc<Gate>,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        let pending = Arc::new(Pending::new(settings.max_pending_hellos));
        let quota = Arc::new(Quota::new(settings.records));
        Self {
            settings,
            table,
            datapath,
            observer,
            quota,
            census,
            gate,
            trace: Arc::default(),
            pending,
            unaccepted: Seldom::default(),
            profiles: Profiles::default(),
            active: AtomicUsize::new(0),
            shutdown,
        }
    }

    /// Where the steps of single connections are told.
    pub fn trace(&self) -> Arc<Trace> {
        Arc::clone(&self.trace)
    }

    /// Connections accepted and not over.
    pub fn active(&self) -> usize {
        // Nobody is not counted for being in between, and none lives where this says so: who is left is it
        // before it is not active any more, and who ends is active before it is not left any more.
        let active = || self.active.load(Ordering::Acquire);
        let before = active();
        let left = self.census.left();
        before.max(active()) + left
    }

    /// Says which records were not written, at the end.
    pub fn sum_up(&self) {
        self.quota.sum_up();
    }

    /// Connections whose hello is not complete, and how many there may be.
    pub fn pending_hellos(&self) -> (usize, usize) {
        self.pending.count()
    }
}
