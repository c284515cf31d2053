//! Interfaces whose other end is in another network namespace, as of the pods of this node: packets for it can go there
//! without a stop at this end (`bpf_redirect_peer()`). Nothing at the egress of this end sees them then, and what is behind
//! the other end cannot be told from here, so somebody has to say which interfaces these are.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use sni_router_common::flow::{Flow, option};
use tracing::{debug, info};

/// See the module.
pub struct Shortcuts {
    /// As somebody says: `cali*`.
    names: Vec<String>,
    known: RwLock<HashSet<u32>>,
}

impl Shortcuts {
    /// Those that have one of these names, where a `*` at the end stands for anything. None are known yet.
    pub fn new(names: Vec<String>) -> Self {
        Self {
            names,
            known: RwLock::default(),
        }
    }

    /// How an interface is now.
    pub fn hear(&self, link: &LinkMessage) {
        // What is told of a port as such leaves out what it is.
        if link.header.interface_family != AddressFamily::Unspec {
            return;
        }
        let index = link.header.index;
        let name = link
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(&**name),
                _ => None,
            });
        let Some(name) = name.filter(|name| self.are_to_be(name)) else {
            return self.forget(index);
        };
        let leads = leads_elsewhere(link);
        if leads && self.known_mut(|known| known.insert(index)) {
            info!(interface = name, "a shortcut into another namespace");
        } else if !leads {
            debug!(interface = name, "no veth pair into another namespace");
            self.forget(index);
        }
    }

    /// An interface has gone.
    pub fn forget(&self, ifindex: u32) {
        if !self.names.is_empty() {
            self.known_mut(|known| known.remove(&ifindex));
        }
    }

    /// Has a direction take it where its interface is one.
    pub fn mark(&self, flow: &mut Flow) {
        if self.is_one(flow.ifindex) {
            flow.options |= option::SHORTCUT;
        }
    }

    /// Whether an interface is one.
    pub fn is_one(&self, ifindex: u32) -> bool {
        // Nobody else is to pay for it.
        !self.names.is_empty() && {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            known.contains(&ifindex)
        }
    }

    fn are_to_be(&self, name: &str) -> bool {
        let mut names = self.names.iter();
        names.any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == pattern,
        })
    }

    fn known_mut(&self, change: impl FnOnce(&mut HashSet<u32>) -> bool) -> bool {
        change(&mut self.known.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether it is an end of a veth pair of which the other one is in another namespace: else the helper drops what it is
/// given (`skb_do_redirect()`, net/core/filter.c).
fn leads_elsewhere(link: &LinkMessage) -> bool {
    let is_veth = |attribute: &LinkAttribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Veth)),
        _ => false,
    };
    let is_elsewhere =
        |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::LinkNetNsId(_));
    link.attributes.iter().any(is_veth) && link.attributes.iter().any(is_elsewhere)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: InfoKind, is_elsewhere: bool) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]),
        ];
        link.attributes
            .extend(is_elsewhere.then_some(LinkAttribute::LinkNetNsId(0)));
        link
    }

    fn shortcuts(names: &[&str]) -> Shortcuts {
        Shortcuts::new(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn shortcuts_are_veth_pairs_into_other_namespaces_while_they_are() {
        let shortcuts = shortcuts(&["*"]);
        shortcuts.hear(&link(1, "a", InfoKind::Veth, true));
        shortcuts.hear(&link(2, "b", InfoKind::Veth, false));
        shortcuts.hear(&link(3, "c", InfoKind::MacVlan, true));
        let are = [1, 2, 3].map(|index| shortcuts.is_one(index));
        assert_eq!(are, [true, false, false]);
        // The other end has come home.
        shortcuts.hear(&link(1, "a", InfoKind::Veth, false));
        assert!(!shortcuts.is_one(1));
        shortcuts.hear(&link(2, "b", InfoKind::Veth, true));
        assert!(shortcuts.is_one(2));
        shortcuts.forget(2);
        assert!(!shortcuts.is_one(2));
    }

    #[test]
    fn only_those_are_whose_names_somebody_has_said() {
        let (some, none) = (shortcuts(&["cali*", "pod"]), shortcuts(&[]));
        for (index, name) in (1..).zip(["cali7", "pod", "eth0", "pod1", "xcali"]) {
            some.hear(&link(index, name, InfoKind::Veth, true));
            none.hear(&link(index, name, InfoKind::Veth, true));
        }
        let are = |of: &Shortcuts| [1, 2, 3, 4, 5].map(|index| of.is_one(index));
        assert_eq!(are(&some), [true, true, false, false, false]);
        assert_eq!(are(&none), [false; 5]);
        // Renamed.
        some.hear(&link(1, "eth1", InfoKind::Veth, true));
        assert!(!some.is_one(1));
    }
}
