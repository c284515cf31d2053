//! How the kernel programs and the clusters fare.

use std::collections::BTreeMap;

use sni_router_common::counter::Counter;
use sni_router_common::names;

use super::Inside;
use crate::api::{Attachment, Cluster, Interface, Kernel, Map, Program, SelfTest, TestResult};
use crate::carry::Kind;
use crate::datapath::bpf::{self, Counters, KernelFacts, LoadedProgram};
use crate::datapath::choose;
use crate::source::kubernetes::ClusterFacts;

pub(super) fn kernel(inside: &Inside) -> Kernel {
    let facts = inside.kernel.as_ref().map(|(facts, _)| facts);
    let maps = facts.iter().flat_map(|_| KernelFacts::MAPS);
    let counters = inside.kernel.as_ref().map(|(_, counters)| counts(counters));
    let fill = inside.fill.counted();
    Kernel {
        release: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        datapath: inside.datapath.to_owned(),
        declined: inside.declined.clone(),
        self_tests: self_tests(inside),
        programs: programs(inside),
        pins: facts.and_then(|facts| facts.pins.as_ref().map(|dir| dir.display().to_string())),
        maps: maps
            .map(|(name, capacity)| Map {
                name: name.to_owned(),
                capacity: capacity.into(),
                forgets: name == names::MAP_SEEN,
                used: fill.iter().find(|it| it.map == name).map(|it| it.entries),
            })
            .collect(),
        interfaces: facts.map(|facts| interfaces(facts)).unwrap_or_default(),
        counters: counters.unwrap_or_default(),
    }
}

pub(super) fn self_tests(inside: &Inside) -> Vec<SelfTest> {
    let told = |(kind, found): &(Kind, choose::SelfTest)| {
        let (result, why) = match found {
            choose::SelfTest::Works => (TestResult::Works, None),
            choose::SelfTest::Fails(why) => (TestResult::Fails, Some(why.clone())),
            choose::SelfTest::NotTried(why) => (TestResult::NotTried, Some((*why).to_owned())),
        };
        SelfTest {
            datapath: kind.as_str().to_owned(),
            result,
            why,
        }
    };
    inside.self_tests.iter().map(told).collect()
}

pub(super) fn programs(inside: &Inside) -> Vec<Program> {
    let facts = inside.kernel.iter();
    facts
        .flat_map(|(facts, _)| facts.programs())
        .map(program)
        .collect()
}

fn program(loaded: LoadedProgram) -> Program {
    let attached = loaded.attached.into_iter();
    Program {
        name: loaded.name,
        kind: loaded.kind.to_owned(),
        id: loaded.id,
        attached: attached
            .map(|bpf::Attachment { to, by }| Attachment {
                to,
                by: by.to_owned(),
            })
            .collect(),
        runs: loaded.runs.map(|(runs, _)| runs),
        run_seconds: loaded.runs.map(|(_, time)| time.as_secs_f64()),
    }
}

fn interfaces(facts: &KernelFacts) -> Vec<Interface> {
    let told = |(index, interface): (u32, bpf::Interface)| {
        let (program, why) = match interface.program {
            Ok((program, _)) => (Some(program.to_owned()), None),
            Err(why) => (None, Some(why)),
        };
        Interface {
            index,
            name: interface.name,
            program,
            why,
        }
    };
    facts.interfaces().into_iter().map(told).collect()
}

pub(super) fn counts(counters: &Counters) -> BTreeMap<String, u64> {
    let counts = counters.all();
    Counter::ALL
        .map(|counter| (counter.as_str().to_owned(), counts[counter as usize]))
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
