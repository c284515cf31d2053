//! Interfaces, addresses and routes of this network namespace, as netlink tells them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{
    LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, LinkXdp,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType,
};
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};
use rtnetlink::{Handle, new_connection};

use crate::datapath::bpf::Layer;
use crate::datapath::tc::interfaces::layer;
use crate::sys::ethtool::{has_gro, has_lro};

/// What the checks know of the network.
#[derive(Default)]
pub struct Network {
    /// In the order of their numbers.
    pub links: Vec<Link>,
    /// Of this host's interfaces.
    pub addresses: BTreeSet<IpAddr>,
    /// Where packets to the addresses that were asked for go; an error where they go nowhere.
    pub routes: BTreeMap<IpAddr, io::Result<Route>>,
    /// The default routes, by which clients most likely come.
    pub defaults: Vec<Route>,
}

/// An interface.
#[derive(Clone, Debug, Default)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    pub is_loopback: bool,
    /// Where its packets start; `None` where that is not known, and of the loopback interface.
    pub layer: Option<Layer>,
    /// The kernel's word for its type.
    pub kind: String,
    pub is_up: bool,
    pub has_carrier: bool,
    /// Whether there is hardware behind it.
    pub is_physical: bool,
    /// Whether it has an IPv4 address.
    pub has_v4: bool,
    /// The number of its XDP program.
    pub xdp: Option<u32>,
    /// Filters of its ingress.
    pub filters: Vec<Filter>,
    /// Large receive offload; `None` where the driver does not say.
    pub lro: Option<bool>,
    /// Generic receive offload.
    pub gro: Option<bool>,
}

/// A TC filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Filter {
    /// The lowest comes first.
    pub pref: u16,
    /// `bpf`, `u32`, ….
    pub kind: String,
    /// Of a BPF program.
    pub name: String,
}

/// Where packets to an address go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Whether they are IPv4.
    pub is_v4: bool,
    /// Whether they stay on this host.
    pub is_local: bool,
    /// How many bits of the address decide.
    pub prefix: u8,
    /// The number of the interface they leave by; 0 where there are several.
    pub interface: u32,
    pub gateway: Option<IpAddr>,
    pub is_onlink: bool,
    /// Who has set it (etc/iproute2/rt_protos).
    pub protocol: u8,
    pub priority: Option<u32>,
    pub source: Option<IpAddr>,
    /// Set for the route, else that of the interface counts.
    pub mtu: Option<u32>,
    /// What peers are told, in bytes of TCP payload.
    pub advmss: Option<u32>,
}

impl Network {
    /// Asks the kernel. `addresses` are those whose routes are wanted.
    pub async fn ask(addresses: &BTreeSet<IpAddr>) -> io::Result<Self> {
        let (connection, handle, _) = new_connection()?;
        let serving = tokio::spawn(connection);
        let mut network = Self::default();
        network.ask_links(&handle).await.map_err(io_error)?;
        network.ask_addresses(&handle).await.map_err(io_error)?;
        for address in addresses {
            let route = route(&handle, *address, RouteFlags::empty()).await;
            network.routes.insert(*address, route);
        }
        for far in FAR {
            // An entry of the table, not what is made of it: that has the metrics.
            let found = route(&handle, far, RouteFlags::FibMatch).await;
            network
                .defaults
                .extend(found.ok().filter(|route| route.prefix == 0));
        }
        serving.abort();
        Ok(network)
    }

    /// All but the loopback interface.
    pub fn others(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(|link| !link.is_loopback)
    }

    /// By its number.
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The largest IP packet that a route takes, as far as this host knows.
    pub fn mtu(&self, route: &Route) -> Option<u32> {
        let link = self.link(route.interface)?.mtu;
        Some(route.mtu.map_or(link, |mtu| mtu.min(link)))
    }

    async fn ask_links(&mut self, handle: &Handle) -> Result<(), rtnetlink::Error> {
        let mut messages = handle.link().get().execute();
        while let Some(message) = messages.try_next().await? {
            self.links.extend(Link::of(&message));
        }
        self.links.sort_by_key(|link| link.index);
        for link in &mut self.links {
            // A driver without settings says so by an error.
            link.lro = has_lro(&link.name).ok();
            link.gro = has_gro(&link.name).ok();
            let index = i32::try_from(link.index).unwrap_or_default();
            let mut filters = handle.traffic_filter(index).get().ingress().execute();
            // A kernel without filters says so by an error.
            while let Ok(Some(message)) = filters.try_next().await {
                link.filters.extend(Filter::of(&message));
            }
            // Parts of one that come as several.
            link.filters.sort();
            link.filters.dedup();
        }
        Ok(())
    }

    async fn ask_addresses(&mut self, handle: &Handle) -> Result<(), rtnetlink::Error> {
        let mut messages = handle.address().get().execute();
        while let Some(message) = messages.try_next().await? {
            let index = message.header.index;
            for attribute in message.attributes {
                let (AddressAttribute::Local(address) | AddressAttribute::Address(address)) =
                    attribute
                else {
                    continue;
                };
                self.addresses.insert(address);
                if let Some(link) = self.links.iter_mut().find(|link| link.index == index) {
                    link.has_v4 |= address.is_ipv4();
                }
            }
        }
        Ok(())
    }
}

impl Link {
    fn of(message: &LinkMessage) -> Option<Self> {
        let header = &message.header;
        let is_loopback = header.link_layer_type == LinkLayerType::Loopback;
        let mut link = Self {
            index: header.index,
            is_loopback,
            layer: layer(header.link_layer_type),
            kind: header.link_layer_type.to_string(),
            is_up: header.flags.contains(LinkFlags::Up),
            has_carrier: header.flags.contains(LinkFlags::LowerUp),
            ..Self::default()
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::ParentDevName(_) => link.is_physical = true,
                LinkAttribute::Xdp(xdp) => {
                    link.xdp = xdp.iter().find_map(|it| match it {
                        LinkXdp::ProgId(id) if *id != 0 => Some(*id),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }
}

impl Filter {
    /// `None` of the head of a list of filters.
    fn of(message: &TcMessage) -> Option<Self> {
        let mut filter = Self {
            // The protocol is the lower half (TC_H_MAJ, include/uapi/linux/pkt_sched.h).
            pref: (message.header.info >> 16) as u16,
            ..Self::default()
        };
        let mut has_options = false;
        for attribute in &message.attributes {
            match attribute {
                TcAttribute::Kind(kind) => filter.kind.clone_from(kind),
                TcAttribute::Options(options) => {
                    has_options = true;
                    for option in options {
                        if let TcOption::Bpf(TcFilterBpfOption::ProgName(name)) = option {
                            filter.name.clone_from(name);
                        }
                    }
                }
                _ => {}
            }
        }
        has_options.then_some(filter)
    }
}

impl Route {
    fn of(message: &RouteMessage) -> Self {
        let header = &message.header;
        let mut route = Self {
            is_v4: header.address_family == AddressFamily::Inet,
            is_local: header.kind == RouteType::Local,
            prefix: header.destination_prefix_length,
            is_onlink: header.flags.contains(RouteFlags::Onlink),
            protocol: header.protocol.into(),
            ..Self::default()
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => route.interface = *index,
                RouteAttribute::Gateway(gateway) => route.gateway = ip(gateway),
                RouteAttribute::PrefSource(source) => route.source = ip(source),
                RouteAttribute::Priority(priority) => route.priority = Some(*priority),
                RouteAttribute::Metrics(metrics) => {
                    for metric in metrics {
                        match metric {
                            RouteMetric::Mtu(mtu) => route.mtu = Some(*mtu),
                            RouteMetric::Advmss(bytes) => route.advmss = Some(*bytes),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        route
    }
}

/// Where packets to an address go.
async fn route(handle: &Handle, to: IpAddr, flags: RouteFlags) -> io::Result<Route> {
    let mut message = RouteMessage::default();
    (
        message.header.address_family,
        message.header.destination_prefix_length,
    ) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.header.flags = flags;
    message
        .attributes
        .push(RouteAttribute::Destination(to.into()));
    let mut answers = handle.route().get(message).execute();
    let answer = answers.try_next().await.map_err(io_error)?;
    answer
        .map(|message| Route::of(&message))
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

/// Addresses that only a default route leads to (RFC 5737, RFC 3849).
const FAR: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_is_read_with_its_program_and_its_hardware() {
        let mut message = LinkMessage::default();
        message.header.index = 2;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        assert!(Link::of(&message).is_none(), "one without a name");
        message.attributes = vec![
            LinkAttribute::IfName("eth0".into()),
            LinkAttribute::Mtu(9000),
            LinkAttribute::ParentDevName("0000:00:03.0".into()),
            LinkAttribute::Xdp(vec![LinkXdp::ProgId(0), LinkXdp::ProgId(7)]),
        ];
        let link = Link::of(&message).unwrap();
        assert_eq!((&*link.name, link.mtu, link.xdp), ("eth0", 9000, Some(7)));
        assert!(link.is_up && link.has_carrier && link.is_physical && !link.is_loopback);
        assert_eq!(link.layer, Some(Layer::Ether));
        message.header.link_layer_type = LinkLayerType::Loopback;
        let link = Link::of(&message).unwrap();
        assert!(link.is_loopback && link.layer.is_none());
    }

    #[test]
    fn filter_is_read_once_and_by_the_name_of_its_program() {
        let mut message = TcMessage::default();
        message.header.info = 49_152 << 16 | 3;
        message.attributes = vec![TcAttribute::Kind("bpf".into())];
        assert_eq!(Filter::of(&message), None, "the head of the list");
        let name = TcOption::Bpf(TcFilterBpfOption::ProgName("police".into()));
        message.attributes.push(TcAttribute::Options(vec![name]));
        let filter = Filter::of(&message).unwrap();
        assert_eq!(
            (filter.pref, &*filter.kind, &*filter.name),
            (49_152, "bpf", "police")
        );
    }

    #[test]
    fn route_is_read_with_what_peers_are_told() {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.kind = RouteType::Unicast;
        let gateway: IpAddr = [192, 0, 2, 254].into();
        message.attributes = vec![
            RouteAttribute::Oif(3),
            RouteAttribute::Gateway(gateway.into()),
            RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400), RouteMetric::Advmss(1300)]),
        ];
        let route = Route::of(&message);
        assert_eq!((route.interface, route.gateway), (3, Some(gateway)));
        assert_eq!((route.mtu, route.advmss), (Some(1400), Some(1300)));
        assert!(route.is_v4 && !route.is_local);
        let mut network = Network::default();
        assert_eq!(network.mtu(&route), None, "its interface has gone");
        network.links.push(Link {
            index: 3,
            mtu: 1280,
            ..Link::default()
        });
        assert_eq!(network.mtu(&route), Some(1280));
    }
}
