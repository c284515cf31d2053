//! Programs of others at the places where the router's are.

use std::collections::BTreeMap;

use sni_router_common::names;

use super::facts::Facts;
use super::finding::{Finding, Outcome, list};
use super::host::AS_ROOT;
use super::network::{Filter, Link};

/// `other-programs`: XDP, TC and sk_lookup programs and TC filters of others.
pub(super) fn other_programs(facts: &Facts) -> Outcome {
    let Some(hooked) = &facts.hooked else {
        return Ok(vec![Finding::ok("none matters: --datapath userspace")]);
    };
    let network = facts.network()?;
    let mut findings = Vec::new();
    if facts.wanted.uses_tc() {
        findings.extend(before(network.others(), hooked));
        findings.extend(filters(network.others()));
        match &hooked.tcx {
            Ok(chains) => findings.extend(chained(network.others(), chains, hooked)),
            Err(error) => findings.push(not_asked("TC programs", error)),
        }
    }
    match &hooked.lookup {
        Ok(ids) => findings.extend(lookups(ids, hooked)),
        Err(error) => findings.push(not_asked("sk_lookup programs", error)),
    }
    if findings.is_empty() {
        findings.push(Finding::ok("none"));
    }
    Ok(findings)
}

/// What is attached, by the numbers of programs.
pub struct Hooked {
    /// By the number of the interface, in the order in which packets meet them.
    pub tcx: std::io::Result<BTreeMap<u32, Vec<u32>>>,
    /// At this network namespace.
    pub lookup: std::io::Result<Vec<u32>>,
    /// The names of programs; only root gets to know them.
    pub names: BTreeMap<u32, String>,
}

impl Hooked {
    fn name(&self, id: u32) -> String {
        match self.names.get(&id) {
            Some(name) if !name.is_empty() => format!("{name} ({id})"),
            _ => format!("program {id}"),
        }
    }

    /// Whether it is one of a router; `None` where its name is not known.
    fn is_own(&self, id: u32) -> Option<bool> {
        self.names.get(&id).map(|name| is_own(name))
    }
}

fn is_own(name: &str) -> bool {
    [names::PROG_TC_ETHER, names::PROG_TC_IP, names::PROG_LOOKUP].contains(&name)
}

fn not_asked(what: &str, error: &std::io::Error) -> Finding {
    Finding::unknown(format!("{what}: {error}")).mend(AS_ROOT)
}

fn before<'l>(links: impl Iterator<Item = &'l Link>, hooked: &Hooked) -> Vec<Finding> {
    let mut found: BTreeMap<u32, Vec<&Link>> = BTreeMap::new();
    for link in links {
        if let Some(id) = link.xdp {
            found.entry(id).or_default().push(link);
        }
    }
    let finding = |(id, links): (u32, Vec<&Link>)| {
        Finding::note(format!("XDP on {}: {}", on(&links), hooked.name(id)))
            .costs("it gets every packet first; what it drops or redirects the router never sees")
            .mend("where nobody needs it: end who holds it, or `ip link set dev … xdp off`")
    };
    found.into_iter().map(finding).collect()
}

fn chained<'l>(
    links: impl Iterator<Item = &'l Link>,
    chains: &BTreeMap<u32, Vec<u32>>,
    hooked: &Hooked,
) -> Vec<Finding> {
    let mut first: BTreeMap<u32, Vec<&Link>> = BTreeMap::new();
    let mut later = first.clone();
    let mut is_nameless = false;
    for link in links {
        let ids = chains
            .get(&link.index)
            .map(Vec::as_slice)
            .unwrap_or_default();
        is_nameless |= ids.iter().any(|id| hooked.is_own(*id).is_none());
        let is_ours = |id: &u32| hooked.is_own(*id) == Some(true);
        let own = ids.iter().position(is_ours).unwrap_or(0);
        for (place, id) in ids.iter().enumerate().filter(|(_, id)| !is_ours(id)) {
            let group = if place < own { &mut first } else { &mut later };
            group.entry(*id).or_default().push(link);
        }
    }
    if is_nameless {
        return vec![Finding::unknown("TC programs are attached, whose is not known").mend(NAMES)];
    }
    let first = first.into_iter().map(|(id, links)| {
        Finding::warning(format!(
            "TC, before ours, on {}: {}",
            on(&links),
            hooked.name(id)
        ))
        .costs(
            "what it drops or redirects the router never sees, nor what it has changed as it was",
        )
        .mend("restart the router, which puts its own first; `bpftool net show` says whose it is")
    });
    let later = later.into_iter().map(|(id, links)| {
        Finding::note(format!("TC on {}: {}", on(&links), hooked.name(id)))
            .costs(UNSEEN)
            .mend("where it must see them: --datapath userspace")
    });
    first.chain(later).collect()
}

fn filters<'l>(links: impl Iterator<Item = &'l Link>) -> Vec<Finding> {
    let mut found: BTreeMap<&Filter, Vec<&Link>> = BTreeMap::new();
    for link in links {
        for filter in link.filters.iter().filter(|filter| !is_own(&filter.name)) {
            found.entry(filter).or_default().push(link);
        }
    }
    let finding = |(filter, links): (&Filter, Vec<&Link>)| {
        let Filter { pref, kind, name } = filter;
        let name = if name.is_empty() {
            String::new()
        } else {
            format!(" {name}")
        };
        Finding::note(format!(
            "TC filter {kind}{name}, pref {pref}, on {}",
            on(&links)
        ))
        .costs(UNSEEN)
        .mend("where it must see them: --datapath userspace")
    };
    found.into_iter().map(finding).collect()
}

fn lookups(ids: &[u32], hooked: &Hooked) -> Vec<Finding> {
    let others: Vec<_> = ids
        .iter()
        .filter(|id| hooked.is_own(**id) != Some(true))
        .collect();
    if others.is_empty() {
        return Vec::new();
    }
    if others.iter().any(|id| hooked.is_own(**id).is_none()) {
        let what = "sk_lookup programs are attached, whose is not known";
        return vec![Finding::unknown(what).mend(NAMES)];
    }
    let names = list(others.iter().map(|id| hooked.name(**id)));
    vec![
        Finding::note(format!("sk_lookup: {names}"))
            .costs("where both want a connection, the one that was attached last gets it"),
    ]
}

fn on(links: &[&Link]) -> String {
    list(links.iter().map(|link| &link.name))
}

/// BPF_PROG_GET_FD_BY_ID asks for it, whatever the program.
const NAMES: &str = "run doctor as root of the host: names of programs take CAP_SYS_ADMIN";

const UNSEEN: &str = "it does not see the packets of connections that tc carries, only the \
                      handshakes: what it counts, limits or filters is that";

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::finding::Level;
    use super::super::tests::Sample;
    use super::*;

    /// Numbers of programs: ours, and others'.
    const OWN: u32 = 10;
    const OTHER: u32 = 20;

    fn sample(chain: &[u32]) -> Sample {
        let mut sample = Sample::new();
        let hooked = sample.facts.hooked.as_mut().unwrap();
        hooked.names = [(OWN, "snir_tc_ether"), (OTHER, "cil_from_netdev")]
            .map(|(id, name)| (id, name.to_owned()))
            .into();
        hooked.tcx = Ok([(2, chain.to_vec()), (3, chain.to_vec())].into());
        sample
    }

    #[test]
    fn tc_programs_are_told_by_whether_packets_meet_them_first() {
        for (chain, expected) in [
            (&[][..], Level::Ok),
            (&[OWN], Level::Ok),
            (&[OTHER], Level::Note),
            (&[OWN, OTHER], Level::Note),
            (&[OTHER, OWN], Level::Warning),
            (&[99], Level::Unknown),
        ] {
            let found = sample(chain).worst(other_programs);
            assert_eq!(found.level, expected, "{chain:?}");
        }
        let found = sample(&[OTHER, OWN]).worst(other_programs);
        assert_eq!(
            found.what,
            "TC, before ours, on eth0, eth1: cil_from_netdev (20)"
        );
    }

    #[test]
    fn xdp_is_told_with_the_interfaces_that_have_it() {
        let mut sample = sample(&[]);
        sample.network().links[1].xdp = Some(OTHER);
        let found = sample.worst(other_programs);
        assert_eq!(found.level, Level::Note);
        assert_eq!(found.what, "XDP on eth0: cil_from_netdev (20)");
    }

    #[test]
    fn filters_of_others_are_notes_and_our_own_are_not() {
        let mut sample = sample(&[]);
        let filter = |name: &str| Filter {
            pref: 1,
            kind: "bpf".into(),
            name: name.into(),
        };
        sample.network().links[1].filters = vec![filter("snir_tc_ether")];
        assert_eq!(sample.worst(other_programs).level, Level::Ok);
        sample.network().links[1].filters.push(filter("police"));
        let found = sample.worst(other_programs);
        assert_eq!(found.what, "TC filter bpf police, pref 1, on eth0");
    }

    #[test]
    fn what_must_not_be_asked_is_unknown() {
        let mut sample = sample(&[]);
        let hooked = sample.facts.hooked.as_mut().unwrap();
        hooked.tcx = Err(io::Error::from_raw_os_error(libc::EPERM));
        assert_eq!(sample.worst(other_programs).level, Level::Unknown);
        let hooked = sample.facts.hooked.as_mut().unwrap();
        hooked.tcx = Ok(BTreeMap::new());
        hooked.lookup = Ok(vec![OTHER]);
        assert_eq!(sample.worst(other_programs).level, Level::Note);
    }
}
