//! Flows of a router of another version, which its program goes on carrying. Of them only what all
//! versions have in common is understood: whose they are, and whether they have ended. A table of which
//! not even that is understood stays until somebody detaches it.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sni_router_common::flow::{FlowKey, address};
use sni_router_common::taken::until;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

use super::detach::remove_filters;
use super::ports::{Port, Ports};
use crate::datapath::bpf::{Pins, foreign_flows, remove_all, version_of};

/// The directory of a table, and the ports that its flows have towards their endpoints.
type Held = (PathBuf, HashSet<Port>);

/// Flows of a table that have not ended.
#[derive(Default)]
struct Live {
    vips: BTreeSet<IpAddr>,
    /// The keys of the endpoints' packets.
    keys: Vec<FlowKey>,
}

impl Live {
    /// Keeps our hands off their ports.
    fn hold(&self, ports: &Ports) -> impl Iterator<Item = Port> {
        let ports_of = self.keys.iter().map(|key| ports.of(key));
        ports_of.inspect(|port| ports.hold(*port))
    }
}

/// Keeps our hands off their ports.
pub(super) fn hold(pins: &Pins, ports: &Ports) -> Vec<Held> {
    let mut tables = Vec::new();
    for dir in pins.foreign() {
        let Some(live) = live_or_warn(&dir) else {
            continue;
        };
        let held = live.hold(ports).collect::<HashSet<_>>();
        info!(dir = %dir.display(), flows = held.len(), "another version's flows go on");
        tables.push((dir, held));
    }
    tables
}

/// Returns when no program of another version takes clients any more: one whose router was killed does so for a while,
/// and nobody would serve them.
pub(super) async fn outlast(pins: &Pins) {
    if !pins.foreign().is_empty() {
        sleep(A_WHILE.saturating_sub(pins.owned_for())).await;
    }
}

/// Removes each table once its last flow has ended. Returns when there is none left.
pub(super) async fn watch(mut tables: Vec<Held>, ports: Arc<Ports>) {
    while !tables.is_empty() {
        let ports = Arc::clone(&ports);
        // There may be a million to look at, and others have something to do here.
        let looked = spawn_blocking(move || {
            tables.retain_mut(|table| is_needed(table, &ports));
            tables
        });
        match looked.await {
            Ok(needed) => tables = needed,
            Err(error) => {
                warn!(%error, "another version's flows are not watched; `sni-router detach` ends them");
                return;
            }
        }
        sleep(TICK).await;
    }
}

/// Whether it is still there. It is removed once its last flow has ended.
fn is_needed((dir, held): &mut Held, ports: &Ports) -> bool {
    if !dir.exists() {
        // This process ends, and has just removed it; or another one has.
        linger(ports, held.iter());
        return false;
    }
    let Some(live) = live_or_warn(dir) else {
        return true;
    };
    // Its router may be handing over still; and of a socket's port that has become a flow there, others here only see
    // that the socket has gone.
    let living = live.hold(ports).collect();
    // At once: later, it may be another connection's.
    linger(ports, held.difference(&living));
    *held = living;
    if held.is_empty() {
        remove(dir);
    }
    !held.is_empty()
}

/// Their flows have ended.
fn linger<'p>(ports: &Ports, ended: impl Iterator<Item = &'p Port>) {
    let now = Instant::now();
    ended.for_each(|port| ports.linger(*port, now));
}

/// Removes every table whose flows have ended. Answers with the VIPs of those that have not.
pub(super) fn leave(pins: &Pins) -> BTreeSet<IpAddr> {
    let mut vips = BTreeSet::new();
    for dir in pins.foreign() {
        match live_or_warn(&dir) {
            Some(live) if live.keys.is_empty() => remove(&dir),
            live => vips.extend(live.unwrap_or_default().vips),
        }
    }
    vips
}

/// The VIPs of pinned flows that have not ended, of this version and of others, whether this process
/// carries flows itself or not.
pub fn pinned_vips(pins: &Pins) -> io::Result<BTreeSet<IpAddr>> {
    let mut vips = BTreeSet::new();
    for dir in pins.tables() {
        match live(&dir) {
            Ok(live) => vips.extend(live.vips),
            // It has just gone, or is one of which nothing is understood: waiting would not help.
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::InvalidData => {}
                _ => return Err(error),
            },
        }
    }
    Ok(vips)
}

fn remove(dir: &Path) {
    if let Some(version) = version_of(dir) {
        remove_filters(version);
    }
    match remove_all(dir) {
        Ok(()) => info!(dir = %dir.display(), "another version's flows have ended"),
        Err(error) => warn!(dir = %dir.display(), %error, "cannot be removed"),
    }
}

/// `None` if the table cannot be read.
fn live_or_warn(dir: &Path) -> Option<Live> {
    let warned = |error: &io::Error| {
        if error.kind() == ErrorKind::NotFound {
            // It has just gone.
            return;
        }
        let dir = dir.display();
        warn!(%dir, %error, "another version's flows cannot be read; `sni-router detach` ends them");
    };
    live(dir).inspect_err(warned).ok()
}

fn live(dir: &Path) -> io::Result<Live> {
    let mut live = Live::default();
    foreign_flows(dir, |key, is_up, is_closed| match (is_up, is_closed) {
        (_, true) => {}
        (true, false) => drop(live.vips.insert(address(&key.dst))),
        (false, false) => live.keys.push(*key),
    })?;
    Ok(live)
}

const TICK: Duration = Duration::from_secs(5);
const A_WHILE: Duration = Duration::from_millis(until::MOST as u64);
