//! Asking the kernel for a route (RTM_GETROUTE, rtnetlink(7)), which needs no privilege and none of its locks that
//! whoever changes interfaces holds.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::net::{
    AddressFamily as SocketFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send,
    socket_with,
};

use super::super::registry::lock;

/// Who knows the routes of this process's network namespace.
pub(super) struct Kernel(Mutex<Option<OwnedFd>>);

impl Kernel {
    /// Nothing has been asked yet.
    pub(super) fn new() -> Self {
        // So that a connection costs no descriptor, not even the first one.
        Self(Mutex::new(open().ok()))
    }

    /// Whether packets from `own` to `peer` leave by this interface, or do so where it is asked for. An error where the
    /// kernel does not say.
    pub(super) fn leads(&self, own: IpAddr, peer: IpAddr, ifindex: u32) -> io::Result<bool> {
        let led = match peer {
            IpAddr::V4(_) => self.may_lead(own, peer, ifindex),
            IpAddr::V6(_) => self.must_lead(own, peer, ifindex),
        };
        led.or_else(|error| match error.kind() {
            // That is an answer, too.
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => Ok(false),
            _ => Err(error),
        })
    }

    /// The interface by which packets leave as they are, and how large they may be if the route says so.
    pub(super) fn way(&self, own: IpAddr, peer: IpAddr) -> io::Result<(u32, Option<u16>)> {
        let route = self.ask(&question(own, peer, RouteFlags::empty()))?;
        let by = interfaces(&route)
            .next()
            .ok_or(io::ErrorKind::InvalidData)?;
        Ok((by, mtu(&route)))
    }

    /// Of several next hops, IPv4 takes the one by the interface that is asked for.
    fn may_lead(&self, own: IpAddr, peer: IpAddr, ifindex: u32) -> io::Result<bool> {
        // First the one that it takes by itself, which mostly is the one.
        for flags in [RouteFlags::empty(), RouteFlags::FibMatch] {
            let route = self.ask(&question(own, peer, flags))?;
            if interfaces(&route).any(|by| by == ifindex) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// IPv6 takes any of them all the same (`fib6_select_path()`, net/ipv6/route.c), and would look for the gateway of
    /// one on the link of another.
    fn must_lead(&self, own: IpAddr, peer: IpAddr, ifindex: u32) -> io::Result<bool> {
        let route = self.ask(&question(own, peer, RouteFlags::FibMatch))?;
        let mut hops = interfaces(&route);
        Ok(hops.next() == Some(ifindex) && hops.all(|by| by == ifindex))
    }

    fn ask(&self, question: &[u8]) -> io::Result<RouteMessage> {
        let mut answer = [0; ANSWER];
        let read = {
            let mut socket = lock(&self.0);
            let asked = match socket.take() {
                Some(socket) => socket,
                None => open()?,
            };
            send(&asked, question, SendFlags::empty())?;
            // The kernel has answered when that returns.
            let (read, _) = recv(&asked, answer.as_mut_slice(), RecvFlags::DONTWAIT)?;
            // Only one of which all answers have been read.
            *socket = Some(asked);
            read
        };
        let answer = NetlinkMessage::deserialize(&answer[..read]).map_err(io::Error::other)?;
        match answer.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => Ok(route),
            NetlinkPayload::Error(error) => Err(error.to_io()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn open() -> io::Result<OwnedFd> {
    let socket = socket_with(
        SocketFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE
        None,
    );
    socket.map_err(io::Error::from)
}

/// A message that asks how packets of a connection leave.
fn question(own: IpAddr, peer: IpAddr, flags: RouteFlags) -> Vec<u8> {
    let (family, bits) = match peer {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    let mut route = RouteMessage::default();
    route.header.address_family = family;
    route.header.source_prefix_length = bits;
    route.header.destination_prefix_length = bits;
    route.header.flags = flags;
    route.attributes = vec![
        RouteAttribute::Source(own.into()),
        RouteAttribute::Destination(peer.into()),
        // Else it would be UDP (inet_rtm_getroute(), net/ipv4/route.c), which rules may treat otherwise.
        RouteAttribute::IpProto(libc::IPPROTO_TCP as u8),
    ];
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(route));
    message.header.flags = NLM_F_REQUEST;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// The interfaces that a route leads by, those aside by which it does not at the moment.
fn interfaces(route: &RouteMessage) -> impl Iterator<Item = u32> {
    let attributes = route.attributes.iter();
    attributes.flat_map(|attribute| {
        let (one, several) = match attribute {
            RouteAttribute::Oif(ifindex) => (Some(*ifindex), [].as_slice()),
            RouteAttribute::MultiPath(hops) => (None, hops.as_slice()),
            _ => (None, [].as_slice()),
        };
        one.into_iter()
            .chain(living(several).map(|hop| hop.interface_index))
    })
}

fn living(hops: &[RouteNextHop]) -> impl Iterator<Item = &RouteNextHop> {
    let is_dead = |hop: &RouteNextHop| hop.flags.contains(RouteNextHopFlags::Dead);
    hops.iter().filter(move |hop| !is_dead(hop))
}

/// Bytes that a packet may have by a route, if it says so.
fn mtu(route: &RouteMessage) -> Option<u16> {
    route.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Metrics(metrics) = attribute else {
            return None;
        };
        metrics.iter().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) => Some(u16::try_from(*mtu).unwrap_or(u16::MAX)),
            _ => None,
        })
    })
}

/// Bytes of an answer: of a route with hundreds of next hops. What is longer is not understood.
const ANSWER: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn route_leads_by_its_interface_or_by_those_of_all_its_next_hops() {
        let by = |attributes| {
            let mut route = RouteMessage::default();
            route.attributes = attributes;
            interfaces(&route).collect::<Vec<_>>()
        };
        let hops = [3, 5].map(|interface_index| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = interface_index;
            hop
        });
        let mut dead = RouteNextHop::default();
        dead.interface_index = 7;
        dead.flags = RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown;
        let priority = RouteAttribute::Priority(9);
        assert_eq!(by(vec![priority.clone(), RouteAttribute::Oif(2)]), [2]);
        let hops = [&[dead], hops.as_slice()].concat();
        assert_eq!(by(vec![RouteAttribute::MultiPath(hops)]), [3, 5]);
        assert!(by(vec![priority]).is_empty());
    }

    #[test]
    fn question_is_of_one_connection_to_one_host() {
        let own = "192.0.2.1".parse().unwrap();
        let peer = "198.51.100.2".parse().unwrap();
        let message = question(own, peer, RouteFlags::FibMatch);
        assert_eq!(message.len(), 16 + 12 + 8 + 8 + 8);
        // The family, and how many bits of the addresses count.
        assert_eq!(message[16..19], [libc::AF_INET as u8, 32, 32]);
        assert_eq!(message[24..28], 0x2000_u32.to_ne_bytes());
        let v6 = question(
            "::1".parse().unwrap(),
            "::2".parse().unwrap(),
            RouteFlags::empty(),
        );
        assert_eq!(v6.len(), message.len() + 2 * 12);
        assert_eq!(v6[16..19], [libc::AF_INET6 as u8, 128, 128]);
    }

    #[test]
    fn kernel_says_whether_there_is_a_way() {
        let kernel = Kernel::new();
        let (home, home6) = ("127.0.0.1".parse().unwrap(), "::1".parse().unwrap());
        for home in [home, home6] {
            assert!(kernel.leads(home, home, 1).unwrap());
            assert!(!kernel.leads(home, home, 9999).unwrap());
        }
        // From an address that is none of this host's.
        let foreign = "192.0.2.1".parse().unwrap();
        assert!(!kernel.leads(foreign, home, 1).unwrap());
        // And it can be asked again.
        assert!(kernel.leads(home, home, 1).unwrap());
    }
}
