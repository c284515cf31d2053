//! What a router does at its end: waiting for what is under way, and leaving the rest to the kernel.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
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
use crate::proxy::Proxy;
use crate::signals::Signals;

/// Waits until there is no connection left, the time is over, or a second signal says at once.
pub async fn drain(proxy: &Proxy, within: Duration, signals: &mut Signals) {
    let deadline = Instant::now() + within;
    while proxy.active() > 0 && Instant::now() < deadline {
        tokio::select! {
            () = sleep(DRAIN_TICK) => {}
            () = signals.stop() => return,
        }
    }
}

/// Waits until the kernel has delivered what is left in the send queues of closed connections to
/// claimed VIPs, which are ours as long as this process lives.
pub async fn deliver(control: &mut Control, within: Duration, signals: &mut Signals) {
    control
        .table
        .store(Arc::new(RouteTable::compile(&Model::default(), 0, None)));
    // What flows need is kept.
    control.vips_of_flows = None;
    let deadline = Instant::now() + within;
    while !control.give_up_vips().await && Instant::now() < deadline {
        tokio::select! {
            () = sleep(DELIVERY_TICK) => {}
            () = signals.stop() => return,
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
