//! VIPs that no interface has: claiming them, or saying that nobody does.
//!
//! A claimed VIP is a local route on the loopback interface: packets that reach the host are
//! delivered to it, and no address is announced to anybody. The routes carry a protocol number of
//! their own, so that those of a router that was killed are recognised, used and removed by the
//! next one. Where several routers claim VIPs, none removes any until the others have gone.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};
use tracing::{info, warn};

use crate::presence::Presence;

/// The VIPs claimed by this process.
pub struct Claims {
    handle: Handle,
    presence: Arc<Presence>,
    claimed: BTreeSet<IpAddr>,
    /// False: only warn about VIPs that no interface has.
    enabled: bool,
    warned: BTreeSet<IpAddr>,
}

/// A VIP that is claimed, and the route by which it is.
pub struct Claim {
    pub vip: IpAddr,
    message: RouteMessage,
}

impl Claims {
    /// Nothing claimed yet. Must be called on a tokio runtime.
    pub fn new(enabled: bool, presence: Arc<Presence>) -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        if enabled {
            presence.claim();
        }
        Ok(Self {
            handle,
            presence,
            claimed: BTreeSet::new(),
            enabled,
            warned: BTreeSet::new(),
        })
    }

    /// Claims those of `vips` that no interface has, or warns about them.
    pub async fn add(&mut self, vips: &BTreeSet<IpAddr>) {
        let local = match self.local_addresses().await {
            Ok(local) => local,
            Err(error) => return warn!(%error, "cannot list this host's addresses"),
        };
        let missing = |vip: &&IpAddr| !local.contains(*vip) && !self.claimed.contains(*vip);
        let missing: Vec<_> = vips.iter().filter(missing).copied().collect();
        for vip in missing {
            if !self.enabled {
                if self.warned.insert(vip) {
                    warn!(%vip, "no interface has this VIP (--claim-vips adds a local route for it)");
                }
                continue;
            }
            match self
                .handle
                .route()
                .add(route(vip))
                .replace()
                .execute()
                .await
            {
                Ok(()) => {
                    info!(%vip, "claimed");
                    self.claimed.insert(vip);
                }
                Err(error) => warn!(%vip, %error, "cannot claim the VIP"),
            }
        }
        self.warned.retain(|vip| vips.contains(vip));
    }

    /// Whether another router claims VIPs here, too. It may need any of them: a route does not say whose it is.
    pub fn are_shared(&self) -> bool {
        self.enabled && self.presence.is_claimed_by_others()
    }

    /// Claimed VIPs that are not among `vips`, also those of an earlier process; none where they are shared.
    pub async fn others(&self, vips: &BTreeSet<IpAddr>) -> Vec<Claim> {
        if !self.enabled || self.are_shared() {
            return Vec::new();
        }
        let mut routes = self.own_routes().await.unwrap_or_else(|error| {
            warn!(%error, "cannot list local routes");
            Vec::new()
        });
        routes.retain(|claim| !vips.contains(&claim.vip));
        routes
    }

    /// Gives up all that are not among `vips`.
    pub async fn remove_others(&mut self, vips: &BTreeSet<IpAddr>) {
        let others = self.others(vips).await;
        self.remove(others).await;
    }

    /// Gives VIPs up.
    pub async fn remove(&mut self, claims: Vec<Claim>) {
        for Claim { vip, message } in claims {
            match self.handle.route().del(message).execute().await {
                Ok(()) => info!(%vip, "given up"),
                Err(error) => warn!(%vip, %error, "cannot give up the VIP"),
            }
            self.claimed.remove(&vip);
        }
    }

    async fn local_addresses(&self) -> Result<BTreeSet<IpAddr>, rtnetlink::Error> {
        let mut addresses = BTreeSet::new();
        let mut messages = self.handle.address().get().execute();
        while let Some(message) = messages.try_next().await? {
            for attribute in message.attributes {
                match attribute {
                    AddressAttribute::Local(addr) | AddressAttribute::Address(addr) => {
                        addresses.insert(addr);
                    }
                    _ => {}
                }
            }
        }
        Ok(addresses)
    }

    /// Local routes with our protocol number.
    async fn own_routes(&self) -> Result<Vec<Claim>, rtnetlink::Error> {
        let mut routes = Vec::new();
        for any in [IpAddr::from([0; 4]), IpAddr::from([0; 16])] {
            let mut messages = self.handle.route().get(filter(any)).execute();
            while let Some(message) = messages.try_next().await? {
                if message.header.protocol == PROTOCOL
                    && let Some(vip) = destination(&message)
                {
                    routes.push(Claim { vip, message });
                }
            }
        }
        Ok(routes)
    }
}

fn route(vip: IpAddr) -> RouteMessage {
    let mut message = filter(vip);
    message.header.destination_prefix_length = if vip.is_ipv4() { 32 } else { 128 };
    message
        .attributes
        .push(RouteAttribute::Destination(match vip {
            IpAddr::V4(v4) => RouteAddress::Inet(v4),
            IpAddr::V6(v6) => RouteAddress::Inet6(v6),
        }));
    message.attributes.push(RouteAttribute::Oif(LOOPBACK));
    message
}

/// A local route of the family of `addr`, without a destination.
fn filter(addr: IpAddr) -> RouteMessage {
    let mut message = match addr {
        IpAddr::V4(_) => RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        IpAddr::V6(_) => RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    };
    message.header.table = TABLE_LOCAL;
    message.header.protocol = PROTOCOL;
    message.header.kind = RouteType::Local;
    message.header.scope = if addr.is_ipv4() {
        RouteScope::Host
    } else {
        RouteScope::Universe
    };
    message
}

fn destination(message: &RouteMessage) -> Option<IpAddr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some((*v4).into()),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some((*v6).into()),
            _ => None,
        })
}

/// Not among those iproute2 knows (etc/iproute2/rt_protos); `ip route show table local proto 213`
/// lists what is claimed.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(213);

/// RT_TABLE_LOCAL (uapi/linux/rtnetlink.h).
const TABLE_LOCAL: u8 = 255;

/// The index of `lo`, the first interface of every network namespace.
const LOOPBACK: u32 = 1;
