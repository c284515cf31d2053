//! Interfaces whose other end is in another network namespace, as of the pods of this node: packets for it can go there
//! without a stop at this end (`bpf_redirect_peer()`). Nothing at the egress of this end sees them then, so somebody has to
//! ask for it.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use sni_router_common::flow::{Flow, option};

/// See the module.
pub struct Shortcuts {
    /// `None` where nobody has asked.
    known: Option<RwLock<HashSet<u32>>>,
}

impl Shortcuts {
    /// None are known yet, and none ever are unless that is asked for.
    pub fn new(is_asked: bool) -> Self {
        Self {
            known: is_asked.then(RwLock::default),
        }
    }

    /// How an interface is now.
    pub fn hear(&self, link: &LinkMessage) {
        match leads_elsewhere(link) {
            true => self.change(|known| {
                known.insert(link.header.index);
            }),
            false => self.forget(link.header.index),
        }
    }

    /// An interface has gone.
    pub fn forget(&self, ifindex: u32) {
        self.change(|known| {
            known.remove(&ifindex);
        });
    }

    /// Has a direction take it where its interface is one.
    pub fn mark(&self, flow: &mut Flow) {
        if self.is_one(flow.ifindex) {
            flow.options |= option::SHORTCUT;
        }
    }

    /// Whether an interface is one.
    pub fn is_one(&self, ifindex: u32) -> bool {
        let known = self.known.as_ref();
        known.is_some_and(|known| {
            let known = known.read().unwrap_or_else(PoisonError::into_inner);
            known.contains(&ifindex)
        })
    }

    fn change(&self, change: impl FnOnce(&mut HashSet<u32>)) {
        if let Some(known) = &self.known {
            change(&mut known.write().unwrap_or_else(PoisonError::into_inner));
        }
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

    fn link(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = attributes;
        link
    }

    #[test]
    fn shortcuts_are_veth_pairs_into_other_namespaces_while_they_are() {
        let kind = |kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]);
        let elsewhere = || LinkAttribute::LinkNetNsId(0);
        let shortcuts = Shortcuts::new(true);
        shortcuts.hear(&link(1, vec![kind(InfoKind::Veth), elsewhere()]));
        shortcuts.hear(&link(2, vec![kind(InfoKind::Veth)]));
        shortcuts.hear(&link(3, vec![kind(InfoKind::MacVlan), elsewhere()]));
        assert_eq!(
            [1, 2, 3].map(|index| shortcuts.is_one(index)),
            [true, false, false]
        );
        // The other end has come home.
        shortcuts.hear(&link(1, vec![kind(InfoKind::Veth)]));
        assert!(!shortcuts.is_one(1));
        shortcuts.hear(&link(2, vec![kind(InfoKind::Veth), elsewhere()]));
        shortcuts.forget(2);
        assert!(!shortcuts.is_one(2));
    }

    #[test]
    fn there_are_none_unless_somebody_asks() {
        let shortcuts = Shortcuts::new(false);
        let attributes = vec![
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
            LinkAttribute::LinkNetNsId(0),
        ];
        shortcuts.hear(&link(1, attributes));
        assert!(!shortcuts.is_one(1));
    }
}
