//! The host's interfaces, those that are there and those that come, and `snir_tc` on each.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::{LinkAttribute, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::shortcuts::Shortcuts;
use crate::datapath::bpf::{Hooks, Layer};
use crate::sys::ethtool::disable_lro;
use crate::sys::interface::number;

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
pub async fn follow(
    hooks: Hooks,
    shortcuts: Arc<Shortcuts>,
    listed: impl FnOnce(usize),
) -> io::Result<()> {
    let mut listed = Some(listed);
    let mut followed = Followed {
        hooks,
        shortcuts,
        known: HashMap::new(),
    };
    loop {
        match followed.listen(&mut listed).await {
            Ok(()) => debug!("the interfaces are listed again"),
            Err(error) if listed.is_some() => return Err(error),
            Err(error) => warn!(%error, "interfaces cannot be listed; trying again"),
        }
        sleep(QUIET).await;
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
    changed: HashSet<u32>,
    /// Whether that is all there was to tell. Only then an interface that the list does not have is
    /// still there: a list that is made while things change may miss one.
    is_complete: bool,
}

/// The interfaces of the last list.
struct Followed {
    hooks: Hooks,
    shortcuts: Arc<Shortcuts>,
    known: HashMap<u32, Known>,
}

struct Known {
    name: String,
    is_attached: bool,
}

impl Followed {
    /// Lists the interfaces, and goes along with what the kernel tells, until it had more to tell than there was room for.
    async fn listen(&mut self, listed: &mut Option<impl FnOnce(usize)>) -> io::Result<()> {
        let (connection, handle, mut messages) = new_multicast_connection(&[MulticastGroup::Link])?;
        // Ends where this does.
        let mut serving = JoinSet::new();
        serving.spawn(connection);
        let mut news = News::default();
        // Subscribed before the list is made, so that nothing falls in between.
        loop {
            let mut there = Vec::new();
            let mut links = handle.link().get().execute();
            while let Some(link) = links.try_next().await.map_err(io::Error::other)? {
                self.shortcuts.hear(&link);
                there.extend(Interface::of(&link));
            }
            self.update(there, &news);
            if let Some(listed) = listed.take() {
                listed(self.attached());
            }
            let Some((message, _)) = messages.next().await else {
                return Ok(());
            };
            news = News::default();
            news.is_complete = self.hear(&message, &mut news);
            let end = Instant::now() + LONGEST;
            while news.is_complete && Instant::now() < end {
                let Ok(next) = timeout(QUIET, messages.next()).await else {
                    break;
                };
                // Without a next one, there is none after the list either.
                let heard = next.map(|(message, _)| self.hear(&message, &mut news));
                news.is_complete = heard.unwrap_or(false);
            }
            if !news.is_complete {
                return Ok(());
            }
        }
    }

    fn attached(&self) -> usize {
        self.known
            .values()
            .filter(|known| known.is_attached)
            .count()
    }

    /// Goes along with one change. At once: what comes of a flow by a new interface before the program is there meets
    /// the host, which knows no such connection, and resets it. What cannot be done is left to the next list. False if
    /// the kernel had more to tell than there was room for.
    fn hear(&mut self, message: &NetlinkMessage<RouteNetlinkMessage>, news: &mut News) -> bool {
        match &message.payload {
            // A port that leaves its bridge is told about in the same words.
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link))
                if link.header.interface_family == AddressFamily::Unspec =>
            {
                self.forget(link.header.index);
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                news.changed.insert(link.header.index);
                self.shortcuts.hear(link);
                let interface = Interface::of(link);
                let is_there = |index| self.known.get(&index).is_some_and(|it| it.is_attached);
                if let Some(Interface { index, name, layer }) = interface
                    && !is_there(index)
                    && try_attach(&mut self.hooks, index, &name, layer).is_ok()
                {
                    let is_attached = true;
                    self.known.insert(index, Known { name, is_attached });
                }
            }
            NetlinkPayload::Overrun(_) => return false,
            _ => {}
        }
        true
    }

    fn forget(&mut self, index: u32) {
        self.shortcuts.forget(index);
        if let Some(known) = self.known.remove(&index) {
            self.hooks.detach(index);
            debug!(interface = known.name, "gone");
        }
    }

    /// Brings the program to where it is not yet, and takes it from where nothing is any more.
    fn update(&mut self, there: Vec<Interface>, news: &News) {
        if !news.is_complete {
            let indices: HashSet<_> = there.iter().map(|interface| interface.index).collect();
            let mut missing: Vec<_> = self.known.keys().copied().collect();
            missing.retain(|index| !indices.contains(index));
            missing.into_iter().for_each(|index| self.forget(index));
        }
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
            // What was not told may be that it was made anew.
            known.is_attached &= news.is_complete || self.hooks.is_there(index, &known.name);
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
    let attached = try_attach(hooks, index, name, layer);
    match attached {
        Ok(()) => {}
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

fn try_attach(
    hooks: &mut Hooks,
    index: u32,
    name: &str,
    layer: Option<Layer>,
) -> Result<(), String> {
    let layer = layer.ok_or("its packets start with a header that is not known")?;
    // It is found by its name, which may be another one's by now.
    if number(name) != Some(index) {
        return Err("it has another name by now".to_owned());
    }
    unmerge(name)?;
    let attached = hooks.attach(index, name, layer);
    attached.map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
    if number(name).is_some_and(|other| other != index) {
        hooks.detach(index);
        return Err("another one has its name by now".to_owned());
    }
    info!(interface = name, "attached");
    Ok(())
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

/// Changes come in groups, after which the interfaces are listed.
const QUIET: Duration = Duration::from_millis(50);

/// They are, too, where changes do not end.
const LONGEST: Duration = Duration::from_millis(500);
