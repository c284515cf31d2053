//! What the kernel tells of interfaces and routes.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Bound;
use std::pin::Pin;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::task::JoinHandle;

/// What has changed, as far as it may concern flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// An interface has gone, is up or down, or takes packets of another size.
    has_link: bool,
    /// To where routes have changed, by how many bits of an address count.
    prefixes: BTreeSet<(u8, IpAddr)>,
    /// Anything may be another way.
    has_many: bool,
}

/// Everything there is to hear.
pub(super) struct Channel {
    messages: Pin<Box<dyn Stream<Item = Message> + Send>>,
    links: HashMap<u32, State>,
    serving: JoinHandle<()>,
}

type Message = NetlinkPayload<RouteNetlinkMessage>;

/// Whether an interface is running, and what it takes.
type State = (bool, Option<u32>);

impl News {
    /// After which anything may be another way.
    pub(super) fn of_all() -> Self {
        Self {
            has_link: true,
            has_many: true,
            ..Self::default()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the route to this peer may be another one.
    pub(super) fn concern(&self, peer: IpAddr) -> bool {
        let mut from = Bound::Unbounded;
        // One look-up for each length that there is.
        while let Some((bits, _)) = self.prefixes.range((from, Bound::Unbounded)).next() {
            if self.prefixes.contains(&(*bits, cut(peer, *bits))) {
                return true;
            }
            from = Bound::Excluded((*bits, LAST));
        }
        self.has_many
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.has_link |= other.has_link;
        self.has_many |= other.has_many;
        for (bits, prefix) in &other.prefixes {
            self.add_prefix(*bits, *prefix);
        }
    }

    fn add_prefix(&mut self, bits: u8, prefix: IpAddr) {
        self.prefixes.insert((bits, cut(prefix, bits)));
        if self.prefixes.len() > MOST {
            self.prefixes.clear();
            self.has_many = true;
        }
    }

    fn take(&mut self, message: &RouteNetlinkMessage, links: &mut HashMap<u32, State>) {
        match message {
            // That a port leaves its bridge is told in the same words.
            RouteNetlinkMessage::DelLink(link)
                if link.header.interface_family == AddressFamily::Unspec =>
            {
                self.has_link |= links.remove(&link.header.index).is_some();
            }
            RouteNetlinkMessage::NewLink(link)
                if link.header.interface_family == AddressFamily::Unspec =>
            {
                let (index, state) = (link.header.index, state(link));
                // No flow leaves by one that was not there.
                if let Some(was) = links.insert(index, state) {
                    self.has_link |= was != state;
                    // A route by one without a carrier may have been there all the time.
                    self.has_many |= state.0 && !was.0;
                }
            }
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                match prefix(route) {
                    Some((prefix, bits)) => self.add_prefix(bits, prefix),
                    None => self.has_many = true,
                }
            }
            RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => {
                self.has_many = true;
            }
            _ => {}
        }
    }
}

impl Channel {
    pub(super) async fn open() -> io::Result<Self> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ];
        let (connection, handle, messages) = new_multicast_connection(&groups)?;
        let mut channel = Self {
            messages: Box::pin(messages.map(|(message, _)| message.payload)),
            links: HashMap::new(),
            serving: tokio::spawn(connection),
        };
        // Subscribed before, so that nothing falls in between.
        let mut listed = handle.link().get().execute();
        while let Some(link) = listed.try_next().await.map_err(io::Error::other)? {
            channel.links.insert(link.header.index, state(&link));
        }
        Ok(channel)
    }

    /// Returns when there is something new; `None` when the kernel had more to tell than there was room for. Nothing
    /// is lost where it is dropped before.
    pub(super) async fn next(&mut self) -> Option<News> {
        loop {
            let mut news = News::default();
            match self.messages.next().await? {
                NetlinkPayload::InnerMessage(message) => news.take(&message, &mut self.links),
                NetlinkPayload::Overrun(_) => return None,
                _ => {}
            }
            if !news.is_empty() {
                return Some(news);
            }
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn state(link: &LinkMessage) -> State {
    let mtu = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
    (link.header.flags.contains(LinkFlags::Running), mtu)
}

/// Where a route leads to; `None` where that is not understood.
fn prefix(route: &RouteMessage) -> Option<(IpAddr, u8)> {
    let bits = route.header.destination_prefix_length;
    let to = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(to)) => Some(IpAddr::V4(*to)),
            RouteAttribute::Destination(RouteAddress::Inet6(to)) => Some(IpAddr::V6(*to)),
            _ => None,
        });
    let any = match route.header.address_family {
        AddressFamily::Inet => [0; 4].into(),
        AddressFamily::Inet6 => [0; 16].into(),
        _ => return None,
    };
    // That of everything has no address.
    to.or((bits == 0).then_some(any)).map(|to| (to, bits))
}

/// An address of which only the first bits count.
fn cut(addr: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match addr {
        IpAddr::V4(addr) => {
            let rest = u32::MAX.checked_shr(bits).unwrap_or(0);
            IpAddr::V4((addr.to_bits() & !rest).into())
        }
        IpAddr::V6(addr) => {
            let rest = u128::MAX.checked_shr(bits).unwrap_or(0);
            IpAddr::V6((addr.to_bits() & !rest).into())
        }
    }
}

/// Prefixes that are told apart.
const MOST: usize = 4096;

/// The last address in the order of addresses.
const LAST: IpAddr = IpAddr::V6(Ipv6Addr::from_bits(u128::MAX));

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, flags: LinkFlags, mtu: u32) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = flags;
        link.attributes = vec![LinkAttribute::Mtu(mtu)];
        link
    }

    fn route(to: &str, bits: u8) -> RouteMessage {
        let to: IpAddr = to.parse().unwrap();
        let mut route = RouteMessage::default();
        route.header.address_family = match to {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        route.header.destination_prefix_length = bits;
        if bits > 0 {
            route.attributes = vec![RouteAttribute::Destination(to.into())];
        }
        route
    }

    #[tokio::test]
    async fn nothing_is_told_any_more_once_something_was_missed() {
        let told = RouteNetlinkMessage::NewRoute(route("192.0.2.0", 24));
        let messages = [
            NetlinkPayload::Noop,
            NetlinkPayload::InnerMessage(told.clone()),
            NetlinkPayload::Overrun(Vec::new()),
            NetlinkPayload::InnerMessage(told),
        ];
        let mut channel = Channel {
            messages: Box::pin(futures_util::stream::iter(messages)),
            links: HashMap::new(),
            serving: tokio::spawn(std::future::ready(())),
        };
        assert!(channel.next().await.is_some());
        assert!(channel.next().await.is_none());
    }

    #[test]
    fn link_is_news_when_it_changes_or_goes() {
        use RouteNetlinkMessage::{DelLink, NewLink};
        let mut links = HashMap::new();
        let mut has_news = |message| {
            let mut news = News::default();
            news.take(&message, &mut links);
            (!news.is_empty(), news.concern([192, 0, 2, 1].into()))
        };
        let up = LinkFlags::Up | LinkFlags::Running;
        let (nothing, of_link, of_all) = ((false, false), (true, false), (true, true));
        assert_eq!(has_news(NewLink(link(7, up, 1500))), nothing);
        assert_eq!(has_news(NewLink(link(7, up, 1500))), nothing);
        assert_eq!(has_news(NewLink(link(7, LinkFlags::Up, 1500))), of_link);
        assert_eq!(has_news(NewLink(link(7, up, 1500))), of_all);
        assert_eq!(has_news(NewLink(link(7, up, 1400))), of_link);
        let mut port = link(7, up, 1400);
        port.header.interface_family = AddressFamily::Bridge;
        assert_eq!(has_news(DelLink(port)), nothing);
        assert_eq!(has_news(DelLink(link(7, up, 1400))), of_link);
        assert_eq!(has_news(DelLink(link(8, up, 1400))), nothing);
    }

    #[test]
    fn route_concerns_those_to_whom_it_leads() {
        let news = |routes: &[(&str, u8)]| {
            let mut news = News::default();
            for (to, bits) in routes {
                let message = RouteNetlinkMessage::NewRoute(route(to, *bits));
                news.take(&message, &mut HashMap::new());
            }
            news
        };
        let concern = |news: &News, peer: &str| news.concern(peer.parse().unwrap());
        let some = news(&[("192.0.2.64", 26), ("2001:db8::", 32)]);
        assert!(concern(&some, "192.0.2.64") && concern(&some, "192.0.2.127"));
        assert!(!concern(&some, "192.0.2.63") && !concern(&some, "192.0.2.128"));
        assert!(concern(&some, "2001:db8:ffff::") && !concern(&some, "2001:db9::"));
        let v4 = news(&[("0.0.0.0", 0)]);
        assert!(concern(&v4, "198.51.100.1") && !concern(&v4, "2001:db8::1"));
        let v6 = news(&[("::", 0)]);
        assert!(concern(&v6, "2001:db8::1") && !concern(&v6, "198.51.100.1"));
        let hosts = (0..=MOST as u32).map(|n| IpAddr::V4((0x0a00_0000 + n).into()).to_string());
        let hosts: Vec<_> = hosts.collect();
        let hosts: Vec<_> = hosts.iter().map(|host| (&**host, 32)).collect();
        assert!(!concern(&news(&hosts[..MOST]), "192.0.2.1"));
        assert!(concern(&news(&hosts), "192.0.2.1"));
        assert!(concern(&News::of_all(), "192.0.2.1"));
    }
}
