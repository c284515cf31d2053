//! By which interfaces this host sends to its peers, as its routes say.
//!
//! What a side sends comes in by one interface, and what it is sent leaves by the same: `bpf_redirect_neigh()` is
//! told that one. Where the host's route leads by another, as with several uplinks, that may be a dead end: an
//! address that no route has there is taken for a neighbour's (`ip_route_output_key_hash_rcu()`,
//! net/ipv4/route.c). So such a connection is left to sockets, which follow the routes.

mod ask;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tracing::debug;

use self::ask::Kernel;
use super::join::Plan;
use super::registry::lock;
use super::sides::Sides;

/// See the module. Remembers what was asked a moment ago.
pub(super) struct Ways {
    kernel: Kernel,
    shards: [Mutex<Shard>; SHARDS],
    random: RandomState,
}

/// When it was asked, and whether that is the way.
type Shard = HashMap<Way, (Instant, bool)>;

/// From an address of ours to a peer by an interface.
type Way = (IpAddr, IpAddr, u32);

impl Ways {
    pub(super) fn new() -> Self {
        Self {
            kernel: Kernel::new(),
            shards: Default::default(),
            random: RandomState::new(),
        }
    }

    /// Whether packets of both sides of a flow would leave by these interfaces without it, too.
    pub(super) fn lead(&self, sides: &Sides, plan: &Plan) -> bool {
        let Sides {
            client,
            vip,
            source,
            endpoint,
        } = sides;
        self.leads(vip.ip(), client.ip(), plan.down.ifindex)
            && self.leads(source.ip(), endpoint.ip(), plan.up.ifindex)
    }

    /// Whether what this host sends from an address of its own to a peer leaves by this interface, or may.
    pub(super) fn leads(&self, own: IpAddr, peer: IpAddr, ifindex: u32) -> bool {
        let (own, peer) = (own.to_canonical(), peer.to_canonical());
        if is_of_the_link(peer) {
            return true;
        }
        let kernel = &self.kernel;
        self.remembered((own, peer, ifindex), || kernel.leads(own, peer, ifindex))
    }

    /// The interface by which the host's route leads, where that is another one, and how large packets may be on it
    /// if the route says so.
    pub(super) fn instead(
        &self,
        own: IpAddr,
        peer: IpAddr,
        ifindex: u32,
    ) -> Option<(u32, Option<u16>)> {
        if self.leads(own, peer, ifindex) {
            return None;
        }
        let (by, mtu) = self.kernel.way(own, peer).ok()?;
        // Of several that IPv6 has it is none.
        self.leads(own, peer, by).then_some((by, mtu))
    }

    /// Routes are not what they were.
    pub(super) fn forget(&self) {
        self.shards.iter().for_each(|shard| lock(shard).clear());
    }

    fn remembered(&self, way: Way, ask: impl FnOnce() -> io::Result<bool>) -> bool {
        let shard = &self.shards[self.random.hash_one(way) as usize % SHARDS];
        let now = Instant::now();
        if let Some((asked, leads)) = lock(shard).get(&way)
            && now.duration_since(*asked) < LASTS
        {
            return *leads;
        }
        let leads = ask().unwrap_or_else(|error| {
            debug!(%error, peer = %way.1, "the route is not known");
            // Its packets have come by there, and that we cannot ask is not their fault.
            true
        });
        let mut shard = lock(shard);
        if shard.len() >= MOST / SHARDS {
            shard.clear();
        }
        shard.insert(way, (now, leads));
        leads
    }
}

/// Whether an address means somebody only together with an interface (RFC 4007, section 6): the way to it is the one by
/// which it was seen.
fn is_of_the_link(peer: IpAddr) -> bool {
    matches!(peer, IpAddr::V6(peer) if peer.is_unicast_link_local())
}

/// How long an answer holds: asking costs as much as a twentieth of a connection.
const LASTS: Duration = Duration::from_secs(5);

/// Peers that come again within that time, of all that can be told apart: 2 MiB.
const MOST: usize = 16_384;

/// More than threads that open connections at the same time, mostly.
const SHARDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn way(number: u32) -> Way {
        let peer = IpAddr::V4(number.into());
        ([192, 0, 2, 1].into(), peer, 7)
    }

    #[test]
    fn answers_are_remembered_each_for_its_way_and_not_without_end() {
        let ways = Ways::new();
        assert!(ways.remembered(way(1), || Ok(true)));
        assert!(!ways.remembered(way(2), || Ok(false)));
        let unasked = || panic!("it was asked before");
        assert!(ways.remembered(way(1), unasked));
        assert!(!ways.remembered(way(2), unasked));
        let (own, peer, _) = way(2);
        assert!(ways.remembered((own, peer, 8), || Ok(true)));
        (0..10 * MOST as u32).for_each(|number| {
            ways.remembered(way(number), || Ok(false));
        });
        let remembered: usize = ways.shards.iter().map(|shard| lock(shard).len()).sum();
        assert!(remembered <= MOST, "{remembered}");
    }

    #[test]
    fn way_that_cannot_be_asked_for_is_the_one_that_was_seen() {
        let ways = Ways::new();
        assert!(ways.remembered(way(1), || Err(io::ErrorKind::PermissionDenied.into())));
        assert!(ways.leads("::1".parse().unwrap(), "fe80::1".parse().unwrap(), u32::MAX));
    }

    #[test]
    fn the_loopback_interface_leads_to_this_host() {
        let ways = Ways::new();
        for host in ["127.0.0.1", "::ffff:127.0.0.1"] {
            let host = host.parse().unwrap();
            assert!(ways.leads(host, host, 1));
            assert!(!ways.leads(host, host, u32::MAX >> 1));
        }
    }
}
