//! How the kernel programs and the clusters fare.

use std::collections::BTreeMap;

use sni_router_common::counter::Counter;

use super::Inside;
use crate::api::{Cluster, Kernel, Map};
use crate::datapath::bpf::{Counters, KernelFacts};
use crate::source::kubernetes::ClusterFacts;

pub(super) fn kernel(inside: &Inside) -> Kernel {
    let facts = inside.kernel.as_ref().map(|(facts, _)| facts);
    let maps = facts.iter().flat_map(|_| KernelFacts::MAPS);
    let counters = inside.kernel.as_ref().map(|(_, counters)| counts(counters));
    let fill = inside.fill.maps();
    Kernel {
        release: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        datapath: inside.datapath.to_owned(),
        declined: inside.declined.clone(),
        pins: facts.and_then(|facts| facts.pins.as_ref().map(|dir| dir.display().to_string())),
        maps: maps
            .map(|(name, capacity)| Map {
                name: name.to_owned(),
                capacity: capacity.into(),
                used: fill.iter().find(|it| it.map == name).map(|it| it.entries),
            })
            .collect(),
        interfaces: facts.map(|facts| facts.interfaces()).unwrap_or_default(),
        counters: counters.unwrap_or_default(),
    }
}

pub(super) fn counts(counters: &Counters) -> BTreeMap<String, u64> {
    Counter::ALL
        .map(|counter| (counter.as_str().to_owned(), counters.read(counter)))
        .into()
}

pub(super) fn cluster(facts: &ClusterFacts) -> Cluster {
    let objects = facts.objects.iter();
    Cluster {
        name: facts.cluster.to_string(),
        objects: objects
            .map(|(kind, count)| (kind.to_string(), *count))
            .collect(),
        stale_for_seconds: facts.stale_for.map(|age| age.as_secs()),
        why: facts.why.as_ref().map(ToString::to_string),
        definition_problems: facts
            .definition_problems
            .iter()
            .map(ToString::to_string)
            .collect(),
        leader: facts.is_leader,
    }
}
