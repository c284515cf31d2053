//! Flows follow the host's routes, as packets of sockets do: when an interface has no carrier any more, say, and the
//! route leads by another one. Those that leave by an interface which has gone for good, and have no other way, are ended:
//! they know it by its number, which nobody has any more, and would be lost without a word.

mod agenda;
mod news;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sni_router_common::flow::{Flow, FlowKey, Led, address, option};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use self::agenda::Agenda;
use self::news::{Channel, News};
use super::entry::Entry;
use super::registry::{Registry, lock};
use super::ways::Ways;
use crate::carry::End;
use crate::sys::interface;

/// Who looks at flows when routes change.
struct Follower {
    registry: Arc<Registry>,
    /// What those know that hand connections over.
    remembered: Arc<Ways>,
    /// Of its own, so that nobody waits for millions of questions.
    asked: Arc<Ways>,
}

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
    /// Has flows follow the host's routes, and ends those that cannot. Runs as long as the datapath is used. Where
    /// `ways` are remembered, that is forgotten.
    pub(super) async fn follow_routes(self: Arc<Self>, ways: Arc<Ways>) {
        let follower = Follower {
            registry: self,
            remembered: ways,
            asked: Arc::new(Ways::new()),
        };
        loop {
            match follower.follow().await {
                Ok(()) => {
                    debug!("the kernel had more to tell of routes than there was room for");
                    sleep(A_MOMENT).await;
                }
                Err(error) => {
                    warn!(%error, "flows do not follow the host's routes; trying again");
                    sleep(A_WHILE).await;
                }
            }
        }
    }
}

impl Follower {
    /// Returns when something was missed.
    async fn follow(&self) -> io::Result<()> {
        let mut channel = Channel::open().await?;
        // Things may have changed while nobody listened.
        let mut agenda = Agenda::of(News::of_all());
        let mut look: Option<JoinHandle<()>> = None;
        let mut began = Instant::now();
        loop {
            tokio::select! {
                // Always heard, or it would pile up.
                told = channel.next() => match told {
                    Some(news) => agenda.add(&news),
                    None => return Ok(()),
                },
                Some(looked) = finished(&mut look) => {
                    looked.map_err(io::Error::other)?;
                    look = None;
                    agenda.rest((began.elapsed() * REST).min(LONGEST_REST));
                }
                (news, is_last) = agenda.next(), if look.is_none() => {
                    began = Instant::now();
                    look = Some(self.look(news, is_last));
                }
            }
        }
    }

    /// On a thread of its own: with a million flows, others would wait for it.
    fn look(&self, news: News, is_last: bool) -> JoinHandle<()> {
        let (registry, ways) = (Arc::clone(&self.registry), Arc::clone(&self.asked));
        self.remembered.forget();
        spawn_blocking(move || {
            ways.forget();
            registry.look_for_ways(&ways, &news, is_last);
        })
    }
}

/// What has become of a look, if there is one.
async fn finished(look: &mut Option<JoinHandle<()>>) -> Option<Result<(), JoinError>> {
    Some(look.as_mut()?.await)
}

impl Registry {
    /// With `is_last`, who has no way by now is not waited for.
    fn look_for_ways(&self, ways: &Ways, news: &News, is_last: bool) {
        if lock(&self.entries).len() == 0 {
            return;
        }
        let mut found = Found::default();
        let looked = self.flows.table().for_each(|key, flow| {
            // Whoever comes next looks, too.
            if flow.closed == 0 && !self.is_retired() {
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
                "flows leave by another interface, another way, or with smaller packets"
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
        // That routes by an interface have gone with it is told of IPv6 only (`fib_table_flush()`,
        // net/ipv4/fib_trie.c).
        let is_doubtful = link.has_gone || !link.is_running || news.concern(peer);
        let other = is_doubtful
            .then(|| ways.instead(own, peer, flow.ifindex))
            .flatten();
        let (ifindex, mtu) = match other {
            // What was sent to a peer elsewhere is not for this host.
            Some((LOOPBACK, _)) => return,
            Some((ifindex, mtu)) => {
                let of_link = found.link(ifindex).mtu;
                (ifindex, mtu.into_iter().chain(of_link).min())
            }
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
        let shortcut = self.shortcuts.is_one(ifindex);
        let takes_one = flow.options & option::SHORTCUT != 0;
        if (ifindex, mtu, shortcut) == (flow.ifindex, flow.mtu, takes_one) {
            return;
        }
        let led = Led {
            key: *key,
            id: flow.id,
            ifindex,
            mtu,
            shortcut: shortcut.into(),
        };
        match self.flows.lead(&led) {
            Ok(was_there) => found.changed += usize::from(was_there),
            Err(error) => debug!(%error, "a flow does not follow its route"),
        }
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

/// Looking takes a twentieth of one CPU at most, where interfaces of pods come and go all the time, but for very many flows.
const REST: u32 = 20;
const LONGEST_REST: Duration = Duration::from_secs(30);

/// When the kernel has too much to tell.
const A_MOMENT: Duration = Duration::from_secs(1);
/// After an error, which the next attempt meets as well, mostly.
const A_WHILE: Duration = Duration::from_secs(60);

/// The interface to the host itself (LOOPBACK_IFINDEX, include/net/net_namespace.h).
const LOOPBACK: u32 = 1;
