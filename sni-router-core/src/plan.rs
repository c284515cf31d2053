//! The route table as what the host must have: steering rules, listening addresses, local VIPs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use sni_router_common::rule::{Rule, RuleKey};

use crate::model::Vip;
use crate::table::RouteTable;

/// What a table needs of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Contents of the kernel's rule map.
    pub rules: BTreeMap<RuleKey, Rule>,
    /// Addresses to bind where the kernel does not steer.
    pub bind: BTreeSet<SocketAddr>,
    /// Addresses that packets must be delivered locally for.
    pub vips: BTreeSet<IpAddr>,
}

impl Plan {
    /// The plan of a table.
    pub fn of(table: &RouteTable) -> Self {
        let mut plan = Self::default();
        for (index, listener) in table.listeners().enumerate() {
            // Tables are far smaller than 2^32 listeners; the number is for people only.
            let rule = Rule {
                listener: u32::try_from(index).unwrap_or(u32::MAX),
            };
            for vip in &listener.front.vips {
                plan.add(*vip, listener.front.port, rule);
            }
        }
        plan
    }

    fn add(&mut self, vip: Vip, port: u16, rule: Rule) {
        self.bind.extend(vip.sockets(port));
        match vip {
            Vip::Any => {
                self.rules.insert(RuleKey::any(port), rule);
            }
            Vip::Addr(addr) => {
                self.rules.insert(RuleKey::new(octets(addr), port), rule);
                self.vips.insert(addr);
            }
        }
    }
}

fn octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
