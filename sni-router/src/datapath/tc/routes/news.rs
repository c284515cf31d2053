//! What the kernel tells of interfaces and routes.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// What has changed, as far as it may concern flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// An interface has gone, is up or down, or takes packets of another size.
    has_link: bool,
    /// To where routes have changed.
    prefixes: Vec<(IpAddr, u8)>,
    /// To more than that.
    has_many: bool,
}

/// Everything there is to hear.
pub(super) struct Channel {
    messages: Messages,
    links: HashMap<u32, State>,
    serving: JoinHandle<()>,
}

type Messages = std::pin::Pin<Box<dyn Stream<Item = RouteNetlinkMessage> + Send>>;

/// Whether an interface is running, and what it takes.
type State = (bool, Option<u32>);

impl News {
    /// After which everything may be another way.
    pub(super) const fn of_all() -> Self {
        Self {
            has_link: true,
            prefixes: Vec::new(),
            has_many: true,
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        !self.has_link && !self.has_many && self.prefixes.is_empty()
    }

    /// Whether the route to this peer may be another one.
    pub(super) fn concern(&self, peer: IpAddr) -> bool {
        let has = |&(prefix, bits): &(IpAddr, u8)| covers(prefix, bits, peer);
        self.has_many || self.prefixes.iter().any(has)
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.has_link |= other.has_link;
        self.has_many |= other.has_many;
        other
            .prefixes
            .iter()
            .for_each(|prefix| self.add_prefix(*prefix));
    }

    fn add_prefix(&mut self, prefix: (IpAddr, u8)) {
        if self.prefixes.contains(&prefix) {
            return;
        }
        match self.prefixes.len() < MOST {
            true => self.prefixes.push(prefix),
            false => self.has_many = true,
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
                let was = links.insert(index, state);
                self.has_link |= was.is_some_and(|was| was != state);
            }
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                match prefix(route) {
                    Some(prefix) => self.add_prefix(prefix),
                    None => self.has_many = true,
                }
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
        ];
        let (connection, handle, messages) = new_multicast_connection(&groups)?;
        let serving = tokio::spawn(connection);
        let messages = messages.filter_map(|(message, _)| async {
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => Some(inner),
                _ => None,
            }
        });
        let mut channel = Self {
            messages: Box::pin(messages),
            links: HashMap::new(),
            serving,
        };
        // Subscribed before, so that nothing falls in between.
        let mut listed = handle.link().get().execute();
        while let Some(link) = listed.try_next().await.map_err(io::Error::other)? {
            channel.links.insert(link.header.index, state(&link));
        }
        Ok(channel)
    }

    /// Returns when there is something new, with all of it; `None` when the kernel had more to tell than there was
    /// room for. Nothing is lost where it is dropped before.
    pub(super) async fn next(&mut self) -> Option<News> {
        let mut news = News::default();
        while news.is_empty() {
            let message = self.messages.next().await?;
            news.take(&message, &mut self.links);
        }
        Some(news)
    }

    /// What else belongs to it: changes come in groups.
    pub(super) async fn settle(&mut self, news: &mut News) {
        sleep(A_MOMENT).await;
        while let Some(Some(message)) = self.messages.next().now_or_never() {
            news.take(&message, &mut self.links);
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

fn covers(prefix: IpAddr, bits: u8, peer: IpAddr) -> bool {
    match (prefix, peer) {
        (IpAddr::V4(prefix), IpAddr::V4(peer)) => {
            let differ = prefix.to_bits() ^ peer.to_bits();
            differ.leading_zeros() >= bits.into()
        }
        (IpAddr::V6(prefix), IpAddr::V6(peer)) => {
            let differ = prefix.to_bits() ^ peer.to_bits();
            differ.leading_zeros() >= bits.into()
        }
        _ => false,
    }
}

/// Changes come in groups, and what is made anew may have the number of the one before.
const A_MOMENT: Duration = Duration::from_millis(100);

/// Prefixes that are told apart.
const MOST: usize = 64;

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

    #[test]
    fn link_is_news_when_it_changes_or_goes() {
        use RouteNetlinkMessage::{DelLink, NewLink};
        let mut links = HashMap::new();
        let mut has_news = |message| {
            let mut news = News::default();
            news.take(&message, &mut links);
            assert!(!news.concern([192, 0, 2, 1].into()));
            !news.is_empty()
        };
        let up = LinkFlags::Up | LinkFlags::Running;
        assert!(!has_news(NewLink(link(7, up, 1500))));
        assert!(!has_news(NewLink(link(7, up, 1500))));
        assert!(has_news(NewLink(link(7, LinkFlags::Up, 1500))));
        assert!(has_news(NewLink(link(7, up, 1500))));
        assert!(has_news(NewLink(link(7, up, 1400))));
        let mut port = link(7, up, 1400);
        port.header.interface_family = AddressFamily::Bridge;
        assert!(!has_news(DelLink(port)));
        assert!(has_news(DelLink(link(7, up, 1400))));
        assert!(!has_news(DelLink(link(8, up, 1400))));
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
        let hosts: Vec<_> = (0..=MOST).map(|n| format!("10.0.0.{n}")).collect();
        let hosts: Vec<_> = hosts.iter().map(|host| (&**host, 32)).collect();
        assert!(!concern(&news(&hosts[..MOST]), "192.0.2.1"));
        assert!(concern(&news(&hosts), "192.0.2.1"));
        assert!(concern(&News::of_all(), "192.0.2.1"));
    }
}
