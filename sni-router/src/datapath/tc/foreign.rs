//! Flows of a router of another version, which its program goes on carrying. Of them only what all
//! versions have in common is understood: whose they are, and whether they have ended.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sni_router_common::flow::FlowKey;
use tokio::time::sleep;
use tracing::{info, warn};

use super::detach::remove_filters;
use super::ports::{Port, Ports};
use super::registry::sides;
use crate::datapath::bpf::{Pins, foreign_flows, remove_all, version_of};

/// The directory of a table, and the ports that its flows have towards their endpoints.
type Held = (PathBuf, Vec<Port>);

/// Keeps our hands off their ports.
pub(super) fn hold(pins: &Pins, ports: &Ports) -> Vec<Held> {
    let mut tables = Vec::new();
    for dir in pins.foreign() {
        let held: Vec<_> = live(&dir).iter().map(|key| port(key, ports)).collect();
        held.iter().for_each(|port| ports.hold(*port));
        info!(dir = %dir.display(), flows = held.len(), "another version's flows go on");
        tables.push((dir, held));
    }
    tables
}

/// Removes each table once its last flow has ended. Returns when there is none left.
pub(super) async fn watch(mut tables: Vec<Held>, ports: Arc<Ports>) {
    while !tables.is_empty() {
        tables.retain(|(dir, held)| {
            if !live(dir).is_empty() {
                return true;
            }
            let now = Instant::now();
            held.iter().for_each(|port| ports.linger(*port, now));
            if let Some(version) = version_of(dir) {
                remove_filters(version);
            }
            match remove_all(dir) {
                Ok(()) => info!(dir = %dir.display(), "another version's flows have ended"),
                Err(error) => warn!(dir = %dir.display(), %error, "cannot be removed"),
            }
            false
        });
        sleep(TICK).await;
    }
}

/// The keys of the endpoints' packets of flows that have not ended.
fn live(dir: &std::path::Path) -> Vec<FlowKey> {
    let mut keys = Vec::new();
    let read = foreign_flows(dir, |key, is_up, is_closed| {
        if !is_up && !is_closed {
            keys.push(*key);
        }
    });
    if let Err(error) = read {
        warn!(dir = %dir.display(), %error, "another version's flows cannot be read");
    }
    keys
}

fn port(key: &FlowKey, ports: &Ports) -> Port {
    let (endpoint, source) = sides(key);
    ports.port(source, endpoint)
}

const TICK: Duration = Duration::from_secs(5);
