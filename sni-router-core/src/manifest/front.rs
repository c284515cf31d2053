//! Which Listener objects are served, and which of them are one listener: VIPs and ports.
//!
//! Every address and port belongs to the oldest object that wants it; the others are told. Objects
//! of different clusters that say `multicluster: true` and have the same `vip` and port want it
//! together.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use sni_router_common::names::MAX_RULES;

use super::agreement::disagreeing;
use super::compile::reference;
use super::last_good::Judged;
use super::listener::Settings;
use super::object::Kind;
use crate::model::{Cluster, ObjectKey, Vip};
use crate::problem::{Problem, Reason};

/// A listener, and the objects that it is.
#[derive(Debug)]
pub(super) struct Front {
    /// What it is called.
    pub(super) key: ObjectKey,
    /// At most one of each cluster, the oldest first; never empty.
    pub(super) parts: Vec<Part>,
    /// `None` where it is one object alone.
    site: Option<Site>,
}

/// One object of a listener.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) key: Arc<ObjectKey>,
    pub(super) settings: Arc<Settings>,
}

/// What objects of one listener have in common: the first VIP, and the port.
pub(super) type Site = (Vip, u16);

impl Settings {
    /// Where it is one listener with objects of other clusters, if it says so.
    pub(super) fn site(&self) -> Option<Site> {
        let vip = self.vips.first()?;
        self.multicluster.then_some((*vip, self.port))
    }
}

impl Front {
    /// The addresses of all its objects, each once.
    pub(super) fn vips(&self) -> Vec<Vip> {
        let mut seen = HashSet::new();
        let vips = self.parts.iter().flat_map(|part| &part.settings.vips);
        vips.copied().filter(|vip| seen.insert(*vip)).collect()
    }

    fn takes(&self, key: &ObjectKey, site: Option<Site>) -> bool {
        site.is_some()
            && site == self.site
            && self
                .parts
                .iter()
                .all(|part| part.key.cluster != key.cluster)
    }
}

/// The listeners that are served, in the order of their keys.
///
/// "Every address" and one address on the same port are no conflict: the one address is the more
/// specific of the two.
pub(super) fn fronts(judged: &[Judged], problems: &mut Vec<Problem>) -> Vec<Front> {
    let refused = disagreeing(judged, problems);
    let mut by_age: Vec<_> = judged
        .iter()
        .filter_map(|judged| Some((&judged.subject.key, judged.settings()?)))
        .filter(|(key, _)| !refused.contains(key.as_ref()))
        .collect();
    by_age.sort_by(|(_, a), (_, b)| a.age.cmp(&b.age));
    let mut fronts: Vec<Front> = Vec::new();
    // Which front has an address.
    let mut owners: HashMap<(Vip, u16), usize> = HashMap::new();
    for (key, settings) in by_age {
        let site = settings.site();
        let joined = site
            .and_then(|site| owners.get(&site).copied())
            .filter(|&index| fronts[index].takes(key, site));
        let lost = settings.vips.iter().enumerate().find_map(|(index, vip)| {
            let owner = *owners.get(&(*vip, settings.port))?;
            (Some(owner) != joined).then_some((index, *vip, &fronts[owner]))
        });
        if let Some((index, vip, owner)) = lost {
            problems.push(vip_conflict(key, index, (vip, settings.port), site, owner));
            continue;
        }
        let is_new = |vip: &&Vip| !owners.contains_key(&(**vip, settings.port));
        let new = settings.vips.iter().filter(is_new).count();
        if owners.len() + new > MOST_ADDRESSES {
            problems.push(too_many(key));
            continue;
        }
        let part = Part {
            key: Arc::clone(key),
            settings: Arc::clone(settings),
        };
        let index = match joined {
            Some(index) => {
                fronts[index].parts.push(part);
                index
            }
            None => {
                fronts.push(Front {
                    key: ObjectKey::clone(key),
                    parts: vec![part],
                    site,
                });
                fronts.len() - 1
            }
        };
        for vip in &settings.vips {
            owners.insert((*vip, settings.port), index);
        }
    }
    name(&mut fronts);
    fronts.sort_by(|a, b| a.key.cmp(&b.key));
    fronts
}

/// The addresses and ports of all of them. Which ones are this machine's, where every address is
/// served, nobody here knows.
pub(super) fn served(fronts: &[Front]) -> HashSet<SocketAddr> {
    let parts = fronts.iter().flat_map(|front| &front.parts);
    let of = |part: &Part| {
        let port = part.settings.port;
        let addr = move |vip: &Vip| match vip {
            Vip::Any => None,
            Vip::Addr(addr) => Some(SocketAddr::new(*addr, port)),
        };
        part.settings
            .vips
            .iter()
            .filter_map(addr)
            .collect::<Vec<_>>()
    };
    parts.flat_map(of).collect()
}

/// What clusters share is not called by one of them, unless another listener would then have the
/// same name.
fn name(fronts: &mut [Front]) {
    let alone: HashSet<ObjectKey> = fronts
        .iter()
        .filter(|front| front.site.is_none())
        .map(|front| front.key.clone())
        .collect();
    let mut shared: BTreeMap<ObjectKey, Vec<usize>> = BTreeMap::new();
    for (index, front) in fronts.iter().enumerate() {
        if front.site.is_some() {
            let name = ObjectKey {
                cluster: Cluster::default(),
                ..front.key.clone()
            };
            shared.entry(name).or_default().push(index);
        }
    }
    for (name, indices) in shared {
        if let [index] = indices[..]
            && !alone.contains(&name)
        {
            fronts[index].key = name;
        }
    }
}

fn vip_conflict(
    key: &ObjectKey,
    index: usize,
    (vip, port): (Vip, u16),
    site: Option<Site>,
    owner: &Front,
) -> Problem {
    let path = match (vip, index) {
        (Vip::Any, _) => "spec.port",
        (_, 0) => "spec.vip",
        _ => "spec.secondaryVips",
    };
    let place = match vip {
        Vip::Any => format!("port {port} on every address"),
        Vip::Addr(addr) => SocketAddr::new(addr, port).to_string(),
    };
    // Of several objects, the one that keeps it away most plainly.
    let older = owner
        .parts
        .iter()
        .find(|part| part.key.cluster == key.cluster)
        .or(owner.parts.first())
        .map_or(&owner.key, |part| part.key.as_ref());
    let what = format!("{place} belongs to the older Listener {older}, so this one is refused");
    let hint = match (site, owner.site) {
        _ if older.cluster == key.cluster => {
            "attach the Ingresses to that Listener, or use another address or port"
        }
        (Some(_), Some(_)) => "write the same vip in every cluster, or use another address or port",
        _ => "set multicluster: true on both, or use another address or port",
    };
    Problem::error(&reference(Kind::Listener, key), path, what)
        .reason(Reason::AddressConflict)
        .hint(hint)
}

fn too_many(key: &ObjectKey) -> Problem {
    let what = format!(
        "older Listeners leave no place, {MOST_ADDRESSES} addresses and ports are the most, so this \
         one is refused"
    );
    Problem::error(&reference(Kind::Listener, key), "spec.vip", what)
        .reason(Reason::AddressConflict)
        .hint("leave vip out to serve every local address")
}

/// Addresses and ports of all Listeners. While one configuration follows another, those of both are
/// in the kernel's map.
const MOST_ADDRESSES: usize = MAX_RULES as usize / 2;
