//! Ports and addresses towards endpoints, which the `tc` datapath must have for itself.

use std::ops::RangeInclusive;

use super::facts::Facts;
use super::finding::{Finding, Outcome};
use super::kernel::{WITHOUT_TC, chain};
use crate::datapath::tc::reserve::{overlap, with};

/// `source-ports`: that the kernel gives none of `--tc-ports` to others.
pub(super) fn source_ports(facts: &Facts) -> Outcome {
    let wanted = &facts.wanted;
    if !wanted.uses_tc() {
        return Ok(vec![Finding::ok("not needed without the tc datapath")]);
    }
    let range = &wanted.ports.range;
    let ports = format!("{}-{}", range.start(), range.end());
    let chosen = facts.host.sysctl("net.ipv4.ip_local_port_range")?;
    let reserved = facts.host.sysctl(RESERVED)?;
    let mut findings = Vec::new();
    match overlap(range, &chosen, &reserved) {
        None => {
            let each = range.clone().count() * wanted.ports.sources.len().max(1);
            let what = format!("{ports}: {each} connections to each endpoint");
            findings.push(Finding::ok(what));
        }
        Some(_) if wanted.ports.reserve => {
            findings.push(Finding::ok(format!(
                "{ports}: --reserve-ports will reserve them"
            )));
        }
        Some(port) => {
            let chosen = chosen.split_whitespace().collect::<Vec<_>>().join("-");
            let what = format!(
                "--tc-ports {ports}: the kernel gives port {port} to other connections too \
                 (net.ipv4.ip_local_port_range is {chosen})"
            );
            findings.push(
                Finding::at(wanted.without_tc(), what)
                    .costs(WITHOUT_TC)
                    .command(format!("sysctl -w {RESERVED}={}", with(&reserved, range)))
                    .mend("or --reserve-ports, which does it at the start"),
            );
        }
    }
    if meet(range, &NODE_PORTS) {
        findings.push(
            Finding::note("--tc-ports has ports of Kubernetes' NodePort range, 30000-32767")
                .costs("on a node, a connection whose port is a NodePort too may be translated")
                .mend("a range below 30000"),
        );
    }
    Ok(findings)
}

fn meet(one: &RangeInclusive<u16>, other: &RangeInclusive<u16>) -> bool {
    one.start() <= other.end() && other.start() <= one.end()
}

/// `source-addresses`: that each `--tc-source` is this host's.
pub(super) fn source_addresses(facts: &Facts) -> Outcome {
    let wanted = &facts.wanted;
    if !wanted.uses_tc() || wanted.ports.sources.is_empty() {
        return Ok(vec![Finding::ok("that of the route to each endpoint")]);
    }
    let addresses = facts.network.as_ref().map(|network| &network.addresses);
    let mut findings = Vec::new();
    for (source, outcome) in &facts.sources {
        let lost = |what| Finding::at(wanted.without_tc(), what).costs(WITHOUT_TC);
        match outcome {
            Err(error) => findings.push(lost(chain(error)).mend("take an address of an interface")),
            // Bound to with net.ipv4.ip_nonlocal_bind, which lets programs have any.
            Ok(()) if addresses.is_ok_and(|own| !own.contains(source)) => {
                let what = format!("--tc-source {source}: no interface has it");
                let costs = "endpoints' answers to it go elsewhere: connections to them time out";
                let found = Finding::error(what).costs(costs);
                findings.push(found.mend("take an address of an interface"));
            }
            Ok(()) => findings.push(Finding::ok(source.to_string())),
        }
    }
    Ok(findings)
}

const RESERVED: &str = "net.ipv4.ip_local_reserved_ports";

/// kube-apiserver's default of --service-node-port-range.
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::tests::Sample;
    use super::*;
    use crate::datapath::choose::{Choice, ChooseError};

    #[test]
    fn ports_that_the_kernel_chooses_from_are_told_with_the_setting_that_keeps_others() {
        let mut sample = Sample::new();
        assert_eq!(sample.worst(source_ports).level, Level::Ok);
        sample.write("proc/sys/net/ipv4/ip_local_port_range", "20000\t60999\n");
        sample.write("proc/sys/net/ipv4/ip_local_reserved_ports", "8080\n");
        let found = sample.worst(source_ports);
        assert_eq!(found.level, Level::Warning);
        assert_eq!(
            found.command.unwrap(),
            "sysctl -w net.ipv4.ip_local_reserved_ports=8080,10000-29999"
        );
        assert!(found.what.contains("port 20000"), "{}", found.what);
        sample.facts.wanted.datapath = Choice::Tc;
        assert_eq!(sample.worst(source_ports).level, Level::Error);
        sample.facts.wanted.ports.reserve = true;
        assert_eq!(sample.worst(source_ports).level, Level::Ok);
        sample.remove("proc/sys/net/ipv4/ip_local_port_range");
        assert_eq!(sample.worst(source_ports).level, Level::Unknown);
        sample.facts.wanted.datapath = Choice::Userspace;
        assert_eq!(sample.worst(source_ports).level, Level::Ok);
    }

    #[test]
    fn node_ports_are_a_note() {
        let mut sample = Sample::new();
        for (range, expected) in [
            (10_000..=29_999, Level::Ok),
            (10_000..=30_000, Level::Note),
            (32_767..=32_767, Level::Note),
            (1..=2, Level::Ok),
        ] {
            sample.facts.wanted.ports.range = range.clone();
            assert_eq!(sample.worst(source_ports).level, expected, "{range:?}");
        }
    }

    #[test]
    fn source_that_nobody_has_is_found_also_where_the_kernel_lets_it_be_bound() {
        let mut sample = Sample::new();
        let (own, other) = ([192, 0, 2, 1].into(), [192, 0, 2, 99].into());
        sample.facts.wanted.ports.sources = vec![own, other];
        sample.facts.sources = vec![(own, Ok(()))];
        assert_eq!(sample.worst(source_addresses).level, Level::Ok);
        sample.facts.sources.push((other, Ok(())));
        assert_eq!(sample.worst(source_addresses).level, Level::Error);
        sample.facts.sources[1].1 = Err(ChooseError::NoSource(other));
        let found = sample.worst(source_addresses);
        assert_eq!(found.level, Level::Warning);
        assert!(found.what.contains("192.0.2.99"), "{found:?}");
    }
}
