//! Flows follow the host's routes, as packets of sockets do: when an interface has no carrier any more, say, and the
//! route leads by another one. Those that leave by an interface which has gone for good, and have no other way, are ended:
//! they know it by its number, which nobody has any more, and would be lost without a word.

mod news;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sni_router_common::flow::{Flow, FlowKey, address};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, sleep_until};
use tracing::{debug, info, warn};

use self::news::{Channel, News};
use super::entry::Entry;
use super::registry::{Registry, lock};
use super::ways::Ways;
use crate::carry::End;
use crate::sys::interface;

/// What a look at all flows has found.
#[derive(Default)]
struct Found {
    links: HashMap<u32, Link>,
    lost: BTreeMap<u32, End>,
    /// Directions that leave otherwise now.
    changed: usize,
}

/// An interface as it is.
#[derive(Clone, Copy)]
struct Link {
    has_gone: bool,
    is_running: bool,
    mtu: Option<u16>,
}

impl Registry {
    /// Has flows follow the host's routes, and ends those that cannot. Runs as long as the datapath is used.
    pub(super) async fn follow_routes(self: Arc<Self>, ways: Arc<Ways>) {
        loop {
            match self.follow(&ways).await {
                Ok(()) => debug!(
                    "the kernel had more to tell of interfaces and routes than there was room for"
                ),
                Err(error) => return warn!(%error, "flows do not follow the host's routes"),
            }
        }
    }

    async fn follow(self: &Arc<Self>, ways: &Arc<Ways>) -> io::Result<()> {
        let mut channel = Channel::open().await?;
        // At the start as well: things may have changed while no router was there.
        let mut news = News::of_all();
        let mut again: Option<(Instant, News)> = None;
        let mut is_first = true;
        loop {
            let began = Instant::now();
            let (registry, ways, told) = (Arc::clone(self), Arc::clone(ways), news.clone());
            // On a thread of its own: with a million flows, others would wait for it.
            let looked = spawn_blocking(move || registry.look_for_ways(&ways, &told, !is_first));
            looked.await.map_err(io::Error::other)?;
            sleep(began.elapsed() * REST).await;
            if is_first {
                // For flows that were being handed over, or adopted, meanwhile, and for routes that come a moment later.
                let later = || (Instant::now() + A_WHILE, News::default());
                again.get_or_insert_with(later).1.add(&news);
            }
            tokio::select! {
                told = channel.next() => match told {
                    Some(told) => news = told,
                    None => return Ok(()),
                },
                Some(told) = due(&mut again) => {
                    (news, is_first) = (told, false);
                    continue;
                }
            }
            channel.settle(&mut news).await;
            is_first = true;
        }
    }

    /// With `is_last`, who has no way by now is not waited for.
    fn look_for_ways(&self, ways: &Ways, news: &News, is_last: bool) {
        ways.forget();
        if lock(&self.entries).len() == 0 {
            return;
        }
        let mut found = Found::default();
        let looked = self.flows.table().for_each(|key, flow| {
            if flow.closed == 0 {
                self.look_for_way(key, flow, ways, news, &mut found);
            }
        });
        if let Err(error) = looked {
            return warn!(%error, "the flow table cannot be read");
        }
        let Found {
            mut lost, changed, ..
        } = found;
        if changed > 0 {
            info!(
                directions = changed,
                "flows leave by another interface, or with smaller packets"
            );
        }
        {
            let entries = lock(&self.entries);
            lost.retain(|id, _| is_last && entries.get(*id).is_some_and(Entry::is_left));
        }
        if !lost.is_empty() {
            info!(flows = lost.len(), "ending flows whose interface has gone");
        }
        for (id, end) in lost {
            self.end(id, end);
        }
    }

    fn look_for_way(
        &self,
        key: &FlowKey,
        flow: &Flow,
        ways: &Ways,
        news: &News,
        found: &mut Found,
    ) {
        let link = found.link(flow.ifindex);
        let (own, peer) = (address(&flow.src), address(&flow.dst));
        let is_doubtful = !link.is_running || news.concern(peer);
        let other = is_doubtful
            .then(|| ways.instead(own, peer, flow.ifindex))
            .flatten();
        let (ifindex, mtu) = match other {
            Some((ifindex, mtu)) => (ifindex, mtu.or(found.link(ifindex).mtu)),
            None if link.has_gone => {
                // It leads to that side, whose socket would not have answered any more.
                let end = match flow.up {
                    1 => End::EndpointReset,
                    _ => End::ClientReset,
                };
                found.lost.insert(flow.id, end);
                return;
            }
            None => (flow.ifindex, link.mtu.map(|mtu| mtu.min(flow.mtu))),
        };
        let mtu = mtu.unwrap_or(flow.mtu);
        if (ifindex, mtu) != (flow.ifindex, flow.mtu) && self.lead(key, flow.id, ifindex, mtu) {
            found.changed += 1;
        }
    }

    /// Has a direction leave by an interface. What the program notes at the very same time is lost, as where two CPUs
    /// have packets of one direction.
    fn lead(&self, key: &FlowKey, id: u32, ifindex: u32, mtu: u16) -> bool {
        // While this is held, no flow begins that could have the key next.
        let entries = lock(&self.entries);
        let table = self.flows.table();
        let living = table
            .flow(key)
            .filter(|flow| flow.id == id && flow.closed == 0);
        let Some(flow) = living.filter(|_| entries.contains(id)) else {
            return false;
        };
        let led = Flow {
            ifindex,
            mtu,
            ..flow
        };
        table.replace(key, &led).is_ok()
    }
}

impl Found {
    fn link(&mut self, ifindex: u32) -> Link {
        let link = self.links.entry(ifindex);
        *link.or_insert_with_key(|ifindex| Link::of(*ifindex))
    }
}

impl Link {
    fn of(ifindex: u32) -> Self {
        Self {
            has_gone: interface::has_gone(ifindex),
            // What cannot be asked is left as it is.
            is_running: interface::is_running(ifindex).unwrap_or(true),
            mtu: interface::mtu(ifindex).ok(),
        }
    }
}

/// Waits until it is time to look once more, if that is wanted.
async fn due(again: &mut Option<(Instant, News)>) -> Option<News> {
    let (at, _) = again.as_ref()?;
    sleep_until((*at).into()).await;
    again.take().map(|(_, news)| news)
}

/// Longer than most hand-overs, and than it takes to notice that a route has gone.
const A_WHILE: Duration = Duration::from_secs(6);

/// Looking takes a twentieth of one CPU at most, where interfaces of pods come and go all the time.
const REST: u32 = 20;
