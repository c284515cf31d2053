//! The control loop's work: from a snapshot of manifests to what is served.
//!
//! Order: add what is new to the host, then publish the table, then remove what is stale. So a
//! connection never arrives for a listener that the proxy does not know longer than the moment in
//! between, and an address whose listener is gone is refused by the kernel, not by us.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use sni_router_core::manifest::{Build, Compiler, Resolved, Snapshot};
use sni_router_core::model::Vip;
use sni_router_core::plan::Plan;
use sni_router_core::problem::{Problem, Severity};
use sni_router_core::table::{Front, RouteTable};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use crate::claim::{Claim, Claims};
use crate::listen::Steering;
use crate::orphans;
use crate::proxy::worker::Worker;

/// What the control loop works on.
pub struct Control {
    pub compiler: Compiler,
    pub table: Arc<ArcSwap<RouteTable>>,
    pub steering: Steering,
    pub claims: Option<Claims>,
    pub workers: Vec<Worker>,
    /// The problems of the last snapshot, to tell what is new.
    pub problems: Vec<Problem>,
    /// Listeners of earlier tables, which live on as long as a connection of theirs does.
    pub retired: Vec<Weak<Front>>,
    /// Tells the VIPs of pinned flows: those that an earlier router has handed over may be of no
    /// listener any more.
    pub vips_of_flows: Option<VipsOfFlows>,
    /// When to look at them again.
    pub next_look: Instant,
    /// VIPs that stay claimed, whatever else: connections use them that outlive this process.
    pub kept: BTreeSet<IpAddr>,
    /// Whether another router takes over, whose business the VIPs are.
    pub is_followed: bool,
    /// Whether every VIP that is in no listener has been given up.
    pub vips_settled: bool,
}

/// Looks at all flows, which takes a while.
pub type VipsOfFlows = Arc<dyn Fn() -> io::Result<BTreeSet<IpAddr>> + Send + Sync>;

/// What a snapshot came to.
pub struct Applied {
    /// Whether its table is being served.
    pub is_served: bool,
    /// The build it came from.
    pub build: Build,
}

impl Control {
    /// What a snapshot means. Nothing is changed by it.
    pub fn build(&mut self, snapshot: &Snapshot, resolved: &Resolved) -> Build {
        self.compiler.build(snapshot, resolved, now())
    }

    /// Makes of a snapshot, which was begun with at `start`, what is served. One that the host refuses leaves everything
    /// as it is.
    pub async fn apply(&mut self, build: Build, start: Instant) -> Applied {
        self.tell(&build.problems);
        let current = self.table.load_full();
        let next = RouteTable::compile(&build.model, current.generation() + 1, Some(&current));
        let plan = Plan::of(&next);
        if let Some(claims) = &mut self.claims {
            claims.add(&plan.vips).await;
        }
        if let Err(error) = self.steering.add(&plan, &self.workers) {
            error!(%error, "the kernel refused the new listeners; the old ones stay");
            return Applied {
                is_served: false,
                build,
            };
        }
        let (generation, listeners) = (next.generation(), next.listeners().len());
        let routes: usize = next
            .listeners()
            .map(|listener| listener.routes().count())
            .sum();
        let kept: HashSet<_> = next
            .listeners()
            .map(|listener| Arc::as_ptr(&listener.front))
            .collect();
        let gone = current
            .listeners()
            .map(|listener| &listener.front)
            .filter(|front| !kept.contains(&Arc::as_ptr(front)))
            .map(Arc::downgrade);
        self.retired.extend(gone);
        drop(current);
        self.table.store(Arc::new(next));
        if let Err(error) = self.steering.remove_others(&plan, &self.workers) {
            error!(%error, "an old listener could not be removed");
        }
        self.vips_settled = self.give_up_vips().await;
        let took_ms = start.elapsed().as_millis() as u64;
        info!(generation, listeners, routes, took_ms, "applied");
        Applied {
            is_served: true,
            build,
        }
    }

    /// Gives up claimed VIPs that are in no listener and that no connection uses: packets for a VIP
    /// without a local route do not reach its sockets. False if it should be tried again later.
    pub async fn give_up_vips(&mut self) -> bool {
        if self.is_followed {
            return true;
        }
        let mut vips = Plan::of(&self.table.load()).vips;
        vips.extend(&self.kept);
        self.retired.retain(|front| match front.upgrade() {
            Some(listener) => {
                vips.extend(listener.vips.iter().filter_map(|vip| match vip {
                    Vip::Addr(addr) => Some(*addr),
                    Vip::Any => None,
                }));
                true
            }
            None => false,
        });
        let Some(claims) = &mut self.claims else {
            return true;
        };
        if claims.are_shared() {
            return false;
        }
        let spare = claims.others(&vips).await;
        if spare.is_empty() {
            return self.retired.is_empty();
        }
        if self.vips_of_flows.is_some() && Instant::now() < self.next_look {
            return false;
        }
        let begun = Instant::now();
        let in_use = in_use(self.vips_of_flows.clone()).await;
        self.next_look = begun + begun.elapsed() * REST;
        let Ok(in_use) = in_use else {
            return false;
        };
        // Once more, as another router may have come meanwhile.
        if claims.are_shared() {
            return false;
        }
        let is_used = |claim: &Claim| in_use.contains(&claim.vip);
        let (used, unused): (Vec<_>, _) = spare.into_iter().partition(is_used);
        claims.remove(unused).await;
        self.retired.is_empty() && used.is_empty()
    }

    /// Whether another router claims VIPs here, too, which then stay when this one ends.
    pub fn shares_vips(&self) -> bool {
        self.claims.as_ref().is_some_and(Claims::are_shared)
    }

    /// Tries once more what this host would not have at once. False if there is still something.
    pub async fn settle(&mut self) -> bool {
        let is_bound = self.steering.retry(&self.workers);
        if !self.vips_settled {
            self.vips_settled = self.give_up_vips().await;
        }
        is_bound && self.vips_settled
    }

    /// New connections no longer reach us: they are refused, or another program gets them.
    pub fn stop_steering(&mut self) {
        if let Err(error) = self.steering.stop() {
            error!(%error, "a listener could not be removed");
        }
    }

    /// Stops accepting; connections go on.
    pub fn stop_listening(&self) {
        self.workers.iter().for_each(Worker::stop_listening);
    }

    /// Gives back what the host lent us but for what is kept, and ends the workers.
    pub async fn finish(mut self) {
        if let Some(claims) = &mut self.claims {
            claims.remove_others(&self.kept).await;
        }
        self.abandon();
    }

    /// Ends the workers.
    pub fn abandon(self) {
        for worker in self.workers {
            worker.join();
        }
    }

    /// Logs the problems that the last snapshot did not have, and how many it no longer has.
    fn tell(&mut self, problems: &[Problem]) {
        let before: HashSet<_> = self.problems.iter().collect();
        for problem in problems.iter().filter(|it| !before.contains(it)) {
            match problem.severity {
                Severity::Error => error!("{problem}"),
                Severity::Warning => warn!("{problem}"),
                Severity::Note => info!("{problem}"),
            }
        }
        let now: HashSet<_> = problems.iter().collect();
        let solved = self.problems.iter().filter(|it| !now.contains(it)).count();
        if solved > 0 {
            info!(solved, "problems solved");
        }
        self.problems = problems.to_vec();
    }
}

/// With very many flows, looking at them takes half a hundredth of one CPU at most.
const REST: u32 = 200;

/// VIPs of connections of which nobody here has a socket.
async fn in_use(flows: Option<VipsOfFlows>) -> io::Result<BTreeSet<IpAddr>> {
    let look = move || {
        let mut vips = orphans::closing()?;
        if let Some(flows) = flows {
            vips.extend(flows()?);
        }
        Ok(vips)
    };
    let looked = spawn_blocking(look).await.map_err(io::Error::other);
    looked
        .flatten()
        .inspect_err(|error| warn!(%error, "cannot tell which VIPs are still in use"))
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
