//! The interfaces that packets of clients and endpoints come in by.

use super::facts::Facts;
use super::finding::{Finding, Level, Outcome, list};
use super::kernel::WITHOUT_TC;
use super::network::Link;

/// `interfaces`: those that the `tc` datapath can be attached to.
pub(super) fn interfaces(facts: &Facts) -> Outcome {
    let network = facts.network()?;
    let mut findings = Vec::new();
    if network
        .links
        .iter()
        .any(|link| link.is_loopback && !link.is_up)
    {
        findings.push(
            Finding::error("lo is down")
                .costs("no VIP can be claimed, and what is for this host does not reach it")
                .command("ip link set lo up"),
        );
    }
    let others: Vec<_> = network.others().collect();
    if facts.wanted.uses_tc() {
        if others.is_empty() {
            let what = "there is none but lo";
            let found = Finding::at(facts.wanted.without_tc(), what).costs(WITHOUT_TC);
            return Err(found.mend("start the router where clients' packets arrive (hostNetwork)"));
        }
        let strange = || others.iter().filter(|link| link.layer.is_none());
        if strange().next().is_some() {
            let names = list(strange().map(|link| format!("{} ({})", link.name, link.kind)));
            findings.push(
                Finding::note(format!(
                    "packets of {names} start with a header that is not known"
                ))
                .costs("connections over these interfaces are carried in userspace"),
            );
        }
    }
    if findings.iter().all(|found| found.level < Level::Warning) {
        let up = others.iter().filter(|link| link.is_up);
        let names = list(up.map(|link| format!("{} (MTU {})", link.name, link.mtu)));
        findings.push(Finding::ok(if names.is_empty() {
            "none but lo is up".to_owned()
        } else {
            names
        }));
    }
    Ok(findings)
}

/// `offloads`: that packets are merged so that they can be taken apart again, and merged at all.
pub(super) fn offloads(facts: &Facts) -> Outcome {
    if !facts.wanted.uses_tc() {
        return Ok(vec![Finding::ok("any will do without the tc datapath")]);
    }
    let network = facts.network()?;
    let mut findings = Vec::new();
    let merging: Vec<_> = network
        .others()
        .filter(|link| link.lro == Some(true))
        .collect();
    if !merging.is_empty() {
        findings.push(
            Finding::note(format!("large receive offload is on: {}", names(&merging)))
                .costs("nothing: the router turns it off where it may, else it is not attached")
                .command(commands(&merging, |name| {
                    format!("ethtool -K {name} lro off")
                })),
        );
    }
    // Virtual interfaces get what others have merged.
    let single = |link: &&Link| link.is_physical && link.gro == Some(false);
    let single: Vec<_> = network.others().filter(single).collect();
    if !single.is_empty() {
        findings.push(
            Finding::warning(format!("receive offload (GRO) is off: {}", names(&single)))
                .costs("each packet goes its way alone: several times the CPU for bulk transfers")
                .command(commands(&single, |name| {
                    format!("ethtool -K {name} gro on")
                })),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok("GRO on, LRO off"));
    }
    Ok(findings)
}

/// `rp-filter`: that no packet is dropped for having come by another interface than answers take.
pub(super) fn rp_filter(facts: &Facts) -> Outcome {
    let network = facts.network()?;
    let mode = |name: &str| {
        facts
            .host
            .read(&format!("proc/sys/net/ipv4/conf/{name}/rp_filter"))
    };
    let Ok(all) = mode("all") else {
        return Err(Finding::unknown(
            "net.ipv4.conf.all.rp_filter is not visible here",
        ));
    };
    let links: Vec<_> = network
        .others()
        .filter(|link| link.is_up && link.has_v4)
        .collect();
    // The larger of the two is in force; 1 is strict, 2 loose (ip-sysctl.rst of the kernel).
    let is_strict = |link: &&&Link| {
        let own = mode(&link.name).unwrap_or_default();
        all.clone().max(own) == "1"
    };
    let strict: Vec<_> = links.iter().filter(is_strict).copied().collect();
    if strict.is_empty() {
        return Ok(vec![Finding::ok("not strict")]);
    }
    if links.len() == 1 {
        return Ok(vec![Finding::ok(
            "strict; with one interface nothing comes by another",
        )]);
    }
    let so_far = match dropped(&facts.host.read("proc/self/net/netstat").unwrap_or_default()) {
        Some(0) | None => String::new(),
        Some(count) => format!("; {count} packets were dropped for it so far"),
    };
    Ok(vec![
        Finding::warning(format!("strict on {}{so_far}", names(&strict)))
            .costs(
                "a client whose packets come in by another interface than the answers leave by \
                 is dropped in silence, before its handshake",
            )
            .command("sysctl -w net.ipv4.conf.all.rp_filter=2"),
    ])
}

/// `IPReversePathFilter` of `/proc/net/netstat`, which has a line of names and one of values for
/// each group.
fn dropped(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut both = names.split_whitespace().zip(values.split_whitespace());
    let (_, value) = both.find(|(name, _)| *name == "IPReversePathFilter")?;
    value.parse().ok()
}

fn names(links: &[&Link]) -> String {
    list(links.iter().map(|link| &link.name))
}

/// A command for each interface.
fn commands(links: &[&Link], command: impl Fn(&str) -> String) -> String {
    let commands: Vec<_> = links.iter().map(|link| command(&link.name)).collect();
    commands.join(" && ")
}

#[cfg(test)]
mod tests {
    use super::super::tests::Sample;
    use super::*;

    #[test]
    fn strict_filter_matters_where_there_is_more_than_one_way_in() {
        let mut sample = Sample::new();
        assert_eq!(sample.worst(rp_filter).level, Level::Ok);
        sample.write("proc/sys/net/ipv4/conf/eth1/rp_filter", "1");
        let found = sample.worst(rp_filter);
        assert_eq!(found.level, Level::Warning);
        assert_eq!(found.what, "strict on eth1");
        assert_eq!(
            found.command.unwrap(),
            "sysctl -w net.ipv4.conf.all.rp_filter=2"
        );
        sample.write("proc/sys/net/ipv4/conf/all/rp_filter", "1");
        sample.write(
            "proc/self/net/netstat",
            "TcpExt: A IPReversePathFilter B\nTcpExt: 1 77 2\nIpExt: C\nIpExt: 3\n",
        );
        let found = sample.worst(rp_filter);
        assert_eq!(
            found.what,
            "strict on eth0, eth1; 77 packets were dropped for it so far"
        );
        sample.write("proc/sys/net/ipv4/conf/all/rp_filter", "2");
        assert_eq!(sample.worst(rp_filter).level, Level::Ok);
        sample.write("proc/sys/net/ipv4/conf/all/rp_filter", "1");
        sample.network().links.retain(|link| link.name != "eth1");
        assert_eq!(sample.worst(rp_filter).level, Level::Ok);
        sample.remove("proc/sys/net/ipv4/conf/all/rp_filter");
        assert_eq!(sample.worst(rp_filter).level, Level::Unknown);
    }

    #[test]
    fn counter_is_found_by_its_name_or_not_at_all() {
        for (text, expected) in [
            ("", None),
            ("TcpExt: IPReversePathFilter\n", None),
            ("TcpExt: IPReversePathFilter\nTcpExt: x\n", None),
            ("TcpExt: A\nTcpExt: 5\n", None),
            (
                "IpExt: A\nIpExt: 1\nTcpExt: IPReversePathFilter\nTcpExt: 5\n",
                Some(5),
            ),
        ] {
            assert_eq!(dropped(text), expected, "{text:?}");
        }
    }

    #[test]
    fn interfaces_that_tc_cannot_use_are_told() {
        let mut sample = Sample::new();
        let found = sample.worst(interfaces);
        assert_eq!(
            (found.level, &*found.what),
            (Level::Ok, "eth0 (MTU 1500), eth1 (MTU 1500)")
        );
        sample.network().links[1].layer = None;
        sample.network().links[1].kind = "INFINIBAND".into();
        let found = sample.worst(interfaces);
        assert_eq!(found.level, Level::Note);
        assert!(found.what.contains("eth0 (INFINIBAND)"), "{found:?}");
        sample.network().links.truncate(1);
        assert_eq!(sample.worst(interfaces).level, Level::Warning);
        sample.network().links[0].is_up = false;
        sample.facts.wanted.datapath = crate::datapath::choose::Choice::Userspace;
        assert_eq!(sample.worst(interfaces).level, Level::Error);
        sample.facts.network = Err("no netlink".into());
        let found = sample.worst(interfaces);
        assert_eq!(found.level, Level::Unknown);
        assert!(found.what.contains("no netlink"), "{found:?}");
    }

    #[test]
    fn offloads_are_told_with_the_commands() {
        let mut sample = Sample::new();
        assert_eq!(sample.worst(offloads).level, Level::Ok);
        for link in &mut sample.network().links {
            (link.lro, link.is_physical) = (Some(true), true);
        }
        let found = sample.worst(offloads);
        assert_eq!(found.level, Level::Note);
        assert_eq!(
            found.command.unwrap(),
            "ethtool -K eth0 lro off && ethtool -K eth1 lro off"
        );
        sample.network().links[2].gro = Some(false);
        let found = sample.worst(offloads);
        assert_eq!(found.command.unwrap(), "ethtool -K eth1 gro on");
        sample.network().links[2].is_physical = false;
        assert_eq!(sample.worst(offloads).level, Level::Note);
    }
}
