//! The host's interfaces, those that are there and those that come.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_route::link::{LinkAttribute, LinkLayerType, LinkMessage};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::datapath::bpf::Layer;

/// An interface that packets of clients or endpoints may come in by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Where its packets start.
    pub layer: Layer,
}

/// Tells about every interface once, as long as the task runs: first those that are there, then
/// those that appear. `appeared` answers whether it wants it; an interface that was renamed or has
/// gone is told about again when it comes back.
///
/// All kinds but loopback, ports of bridges and bonds among them: a packet that comes in by a port
/// is seen there first, and if it is of a flow it leaves at once; if it is not, the second program
/// it meets does not know it either.
///
/// Must be called on a tokio runtime. `listed` is called once the first list has been gone through.
pub async fn follow(
    mut appeared: impl FnMut(&Interface) -> bool,
    listed: impl FnOnce(usize),
) -> io::Result<()> {
    let mut listed = Some(listed);
    let mut known: HashMap<u32, String> = HashMap::new();
    loop {
        let (connection, handle, mut messages) = new_multicast_connection(&[MulticastGroup::Link])?;
        let serving = tokio::spawn(connection);
        // Subscribed before the list is made, so that nothing falls in between.
        loop {
            let mut there = HashMap::new();
            let mut links = handle.link().get().execute();
            while let Some(link) = links.try_next().await.map_err(io::Error::other)? {
                let Some(interface) = interface(&link) else {
                    continue;
                };
                if known.get(&interface.index) == Some(&interface.name) || appeared(&interface) {
                    there.insert(interface.index, interface.name);
                }
            }
            known = there;
            if let Some(listed) = listed.take() {
                listed(known.len());
            }
            // What exactly has changed does not matter, only that something has.
            if messages.next().await.is_none() {
                break;
            }
            while let Ok(Some(_)) = tokio::time::timeout(A_MOMENT, messages.next()).await {}
        }
        // The kernel had more to tell than there was room for; begin anew.
        serving.abort();
        debug!("the interfaces are listed again");
        sleep(A_MOMENT).await;
    }
}

/// What is known of a link; `None` if it is no interface for us.
fn interface(link: &LinkMessage) -> Option<Interface> {
    let name = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        })?;
    let layer = match link.header.link_layer_type {
        LinkLayerType::Ether => Layer::Ether,
        LinkLayerType::None
        | LinkLayerType::Rawip
        | LinkLayerType::Tunnel
        | LinkLayerType::Tunnel6
        | LinkLayerType::Sit
        | LinkLayerType::Ipgre
        | LinkLayerType::Ip6gre
        | LinkLayerType::Ppp => Layer::Ip,
        LinkLayerType::Loopback => return None,
        other => {
            warn!(%name, ?other, "connections over this kind of interface are carried by sockets");
            return None;
        }
    };
    Some(Interface {
        index: link.header.index,
        name,
        layer,
    })
}

/// Changes come in groups.
const A_MOMENT: Duration = Duration::from_millis(50);
