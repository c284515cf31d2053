//! What a router does at its end: waiting for what is under way, and leaving the rest to the kernel.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use sni_router_common::names;
use sni_router_core::model::Model;
use sni_router_core::table::RouteTable;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::control::Control;
use crate::datapath::bpf::Pins;
use crate::datapath::tc::detach::remove_filters;
use crate::datapath::tc::{Tc, pinned_vips};
use crate::presence::Presence;
use crate::proxy::Proxy;
use crate::signals::{Signals, stop};

/// What may come while a router ends.
pub struct Ending<'e> {
    signals: &'e mut Signals,
    pins: Option<&'e Pins>,
    presence: &'e Presence,
    /// Another router goes on.
    pub is_followed: bool,
    /// A second signal has said: at once.
    is_hurried: bool,
    /// Who takes over says that this one shall end, which it knows.
    is_to_be_told: bool,
}

impl<'e> Ending<'e> {
    /// The end of a router that owns these pins, or of one that another follows already.
    pub fn new(
        signals: &'e mut Signals,
        pins: Option<&'e Pins>,
        presence: &'e Presence,
        is_followed: bool,
    ) -> Self {
        Self {
            signals,
            pins,
            presence,
            is_followed,
            is_hurried: false,
            is_to_be_told: false,
        }
    }

    /// Waits until there is no connection left, the time is over, or a second signal says at once.
    pub async fn drain(&mut self, proxy: &Proxy, until: Instant) {
        while proxy.active() > 0 && Instant::now() < until {
            if self.pause(DRAIN_TICK).await.is_break() {
                return;
            }
        }
    }

    /// Waits until the kernel has delivered what is left in the send queues of closed connections to
    /// claimed VIPs, which are ours as long as this process lives. Not where it has to hurry, nor where that is
    /// somebody else's by now, nor where they stay for another one.
    pub async fn deliver(&mut self, control: &mut Control, until: Instant) {
        control
            .table
            .store(Arc::new(RouteTable::compile(&Model::default(), 0, None)));
        // What flows need is kept.
        control.vips_of_flows = None;
        // Whoever else claims VIPs sees what the kernel has still to deliver, and need not regard this process. Of
        // two that end together each would else leave the VIPs to the other.
        self.presence.claim_nothing();
        while !self.is_hurried && !self.is_followed {
            if control.shares_vips() {
                info!("claimed VIPs stay: another router here claims VIPs, too");
                return;
            }
            if control.give_up_vips().await || Instant::now() >= until {
                return;
            }
            if self.pause(DELIVERY_TICK).await.is_break() {
                return;
            }
        }
    }

    /// A moment; breaks off where a second signal says so.
    async fn pause(&mut self, moment: Duration) -> ControlFlow<()> {
        let Signals {
            hand_over,
            terminate,
            interrupt,
            ..
        } = &mut *self.signals;
        tokio::select! {
            () = sleep(moment) => {}
            _ = hand_over.recv() => self.let_go(),
            () = stop(terminate, interrupt) => {
                if !std::mem::take(&mut self.is_to_be_told) {
                    self.is_hurried = true;
                    return ControlFlow::Break(());
                }
                // Who says so serves, and claims what it needs.
                self.presence.claim_nothing();
            }
        }
        ControlFlow::Continue(())
    }

    /// A router that was started meanwhile need not wait. It adopts the flows, which nobody watches any more.
    fn let_go(&mut self) {
        let Some(pins) = self.pins else {
            return;
        };
        if !self.is_followed {
            info!("another router takes over");
            // First, as who owns the pins expects nobody.
            self.presence.carry_nothing();
            pins.release();
            self.is_followed = true;
            self.is_to_be_told = true;
        }
    }
}

/// Leaves the flows to the kernel, those of other versions, too, and takes everything out of it that no
/// flow needs. Answers with the VIPs that must stay.
pub fn leave(tc: Option<&Tc>, pins: &Pins) -> BTreeSet<IpAddr> {
    let unreadable = |error: &io::Error| warn!(%error, "the flow table cannot be read; it stays");
    let Some(tc) = tc else {
        // What is pinned is of an earlier router, and its programs carry it.
        return pinned_vips(pins)
            .inspect_err(unreadable)
            .unwrap_or_default();
    };
    let Ok(mut vips) = tc.vips_in_use().inspect_err(unreadable) else {
        return BTreeSet::new();
    };
    let is_needed = !vips.is_empty();
    vips.extend(tc.leave_foreign(pins));
    if !vips.is_empty() {
        info!(
            ?vips,
            "connections go on; the next router adopts them, `sni-router detach` ends them"
        );
    }
    if !is_needed {
        remove_filters(names::ABI);
        if let Err(error) = pins.remove_own() {
            warn!(%error, "what is pinned could not be removed");
        }
    }
    vips
}

const DRAIN_TICK: Duration = Duration::from_millis(20);
const DELIVERY_TICK: Duration = Duration::from_millis(100);
