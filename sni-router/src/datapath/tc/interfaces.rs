//! The host's interfaces, those that are there and those that come, and `snir_tc` on each.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::{LinkAttribute, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::datapath::bpf::{Hooks, Layer};
use crate::sys::ethtool::disable_lro;

/// Attaches the program to every interface, as long as the task runs: first to those that are
/// there, then to those that appear. A name is only for people: an interface that is renamed is
/// the same.
///
/// All kinds but loopback, ports of bridges and bonds among them: a packet that comes in by a port
/// is seen there first, and if it is of a flow it leaves at once; if it is not, the second program
/// it meets does not know it either.
///
/// Must be called on a tokio runtime. `listed` is called once the first list has been gone through,
/// with how many interfaces have the program.
pub async fn follow(hooks: Hooks, listed: impl FnOnce(usize)) -> io::Result<()> {
    let mut listed = Some(listed);
    let mut followed = Followed {
        hooks,
        known: HashMap::new(),
    };
    loop {
        let (connection, handle, mut messages) = new_multicast_connection(&[MulticastGroup::Link])?;
        let serving = tokio::spawn(connection);
        let mut news = News::default();
        // Subscribed before the list is made, so that nothing falls in between.
        loop {
            let mut there = Vec::new();
            let mut links = handle.link().get().execute();
            while let Some(link) = links.try_next().await.map_err(io::Error::other)? {
                there.extend(Interface::of(&link));
            }
            followed.update(there, &news);
            if let Some(listed) = listed.take() {
                listed(followed.attached());
            }
            let Some((message, _)) = messages.next().await else {
                break;
            };
            news = News {
                is_complete: true,
                ..News::default()
            };
            news.take(&message);
            while let Ok(Some((message, _))) = timeout(A_MOMENT, messages.next()).await {
                news.take(&message);
            }
        }
        // The kernel had more to tell than there was room for; begin anew.
        serving.abort();
        debug!("the interfaces are listed again");
        sleep(A_MOMENT).await;
    }
}

/// An interface that packets of clients or endpoints may come in by.
struct Interface {
    index: u32,
    name: String,
    /// Where its packets start; `None` where that is nothing we know.
    layer: Option<Layer>,
}

/// What the kernel has told since the last list. The list says how things are; this says which of
/// them are not what they were, though they may have the same number and name again.
#[derive(Default)]
struct News {
    gone: HashSet<u32>,
    changed: HashSet<u32>,
    /// Whether that is all there was to tell. Only then an interface that the list does not have is
    /// still there: a list that is made while things change may miss one.
    is_complete: bool,
}

/// The interfaces of the last list.
struct Followed {
    hooks: Hooks,
    known: HashMap<u32, Known>,
}

struct Known {
    name: String,
    is_attached: bool,
}

impl News {
    fn take(&mut self, message: &NetlinkMessage<RouteNetlinkMessage>) {
        match &message.payload {
            // A port that leaves its bridge is told about in the same words.
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link))
                if link.header.interface_family == AddressFamily::Unspec =>
            {
                self.gone.insert(link.header.index);
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                self.changed.insert(link.header.index);
            }
            _ => {}
        }
    }
}

impl Followed {
    fn attached(&self) -> usize {
        self.known
            .values()
            .filter(|known| known.is_attached)
            .count()
    }

    /// Brings the program to where it is not yet, and takes it from where nothing is any more.
    fn update(&mut self, there: Vec<Interface>, news: &News) {
        let indices: HashSet<_> = there.iter().map(|interface| interface.index).collect();
        self.known.retain(|index, known| {
            let is_missing = !news.is_complete && !indices.contains(index);
            let is_gone = is_missing || news.gone.contains(index);
            if is_gone {
                self.hooks.detach(*index);
                debug!(interface = known.name, "gone");
            }
            !is_gone
        });
        for interface in there {
            let Interface { index, name, layer } = interface;
            let Some(known) = self.known.get_mut(&index) else {
                let is_attached = attach(&mut self.hooks, index, &name, layer, true);
                self.known.insert(index, Known { name, is_attached });
                continue;
            };
            if known.name != name {
                info!(interface = name, was = known.name, "renamed");
                self.hooks.rename(index, &name);
                known.name = name;
            }
            if !known.is_attached {
                // It may have been changed, or renamed while we tried.
                let hooks = &mut self.hooks;
                known.is_attached = attach(hooks, index, &known.name, layer, false);
            } else if news.changed.contains(&index)
                && let Err(why) = unmerge(&known.name)
            {
                warn!(interface = known.name, %why, "connections over it may stall");
            }
        }
    }
}

/// Whether the program is there now; `is_new` says whether somebody should hear why it is not.
fn attach(hooks: &mut Hooks, index: u32, name: &str, layer: Option<Layer>, is_new: bool) -> bool {
    let attached = match layer {
        Some(layer) => unmerge(name).and_then(|()| {
            let attached = hooks.attach(index, name, layer);
            attached.map_err(|error| format!("{:#}", anyhow::Error::from(error)))
        }),
        None => Err("its packets start with a header that is not known".to_owned()),
    };
    match attached {
        Ok(()) => info!(interface = name, "attached"),
        Err(ref why) if is_new => {
            hooks.refuse(index, name, why);
            warn!(interface = name, %why, "not attached: connections over it are carried by sockets");
        }
        Err(ref why) => {
            hooks.refuse(index, name, why);
            debug!(interface = name, %why, "not attached");
        }
    }
    attached.is_ok()
}

/// Sees to it that packets come in as they were sent, or so that they can be sent on as such: what
/// large receive offload has merged cannot be taken apart again.
fn unmerge(name: &str) -> Result<(), String> {
    match disable_lro(name) {
        Ok(false) => Ok(()),
        Ok(true) => {
            warn!(interface = name, "large receive offload is turned off");
            Ok(())
        }
        Err(error) => Err(format!(
            "large receive offload cannot be turned off: {error}"
        )),
    }
}

impl Interface {
    /// `None` if it is none for us.
    fn of(link: &LinkMessage) -> Option<Self> {
        let name = link
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            })?;
        let kind = link.header.link_layer_type;
        (kind != LinkLayerType::Loopback).then(|| Self {
            index: link.header.index,
            name,
            layer: layer(kind),
        })
    }
}

/// Where packets of interfaces of this type start; `None` where that is nothing we know.
pub fn layer(kind: LinkLayerType) -> Option<Layer> {
    match kind {
        LinkLayerType::Ether => Some(Layer::Ether),
        LinkLayerType::None
        | LinkLayerType::Rawip
        | LinkLayerType::Tunnel
        | LinkLayerType::Tunnel6
        | LinkLayerType::Sit
        | LinkLayerType::Ipgre
        | LinkLayerType::Ip6gre
        | LinkLayerType::Ppp => Some(Layer::Ip),
        _ => None,
    }
}

/// Changes come in groups.
const A_MOMENT: Duration = Duration::from_millis(50);
