//! The manifests, and whether clients of what they say reach this host.

use std::net::IpAddr;

use super::facts::Facts;
use super::finding::{Finding, Outcome, list};

/// `manifests`: that they can be read.
pub(super) fn manifests(facts: &Facts) -> Outcome {
    let site = match &facts.site {
        None => return Ok(Vec::new()),
        Some(Err(why)) => {
            let found = Finding::error(why).costs("the router does not start");
            return Err(found.mend("name the directory that `run --manifests` will have"));
        }
        Some(Ok(site)) => site,
    };
    let what = format!(
        "VIPs: {}, endpoints: {}",
        site.plan.vips.len(),
        site.endpoints.len()
    );
    if site.errors == 0 {
        return Ok(vec![Finding::ok(what)]);
    }
    Ok(vec![
        Finding::warning(format!("{what}; errors: {}", site.errors))
            .costs("what is wrong is not served")
            .mend("`sni-router check DIR` says what and where"),
    ])
}

/// `vips`: that packets to them are this host's to take.
pub(super) fn vips(facts: &Facts) -> Outcome {
    let Some(site) = facts.site() else {
        return Ok(Vec::new());
    };
    let network = facts.network()?;
    let is_local = |vip: &&IpAddr| {
        let route = network.routes.get(*vip);
        let is_delivered = route.is_some_and(|route| route.as_ref().is_ok_and(|it| it.is_local));
        is_delivered || network.addresses.contains(*vip)
    };
    let (own, others): (Vec<&IpAddr>, Vec<&IpAddr>) = site.plan.vips.iter().partition(is_local);
    if others.is_empty() {
        let what = match own.as_slice() {
            [] => "every address of this host".to_owned(),
            own => list(own),
        };
        return Ok(vec![Finding::ok(what)]);
    }
    let has_no_v6 = facts.host.number(NO_V6) == Ok(1);
    if has_no_v6 && others.iter().any(|vip| vip.is_ipv6()) {
        let v6 = others.iter().filter(|vip| vip.is_ipv6());
        return Err(
            Finding::error(format!("lo has no IPv6, which {} would need", list(v6)))
                .costs("nothing can give these addresses to this host: connections time out")
                .command(format!("sysctl -w {NO_V6}=0")),
        );
    }
    if facts.wanted.claim_vips {
        let what = format!("--claim-vips will claim {}", list(others));
        return Ok(vec![Finding::ok(what)]);
    }
    let add = |vip: &&IpAddr| {
        let bits = if vip.is_ipv4() { 32 } else { 128 };
        format!("ip addr add {vip}/{bits} dev lo")
    };
    let commands: Vec<_> = others.iter().map(add).collect();
    let found = Finding::warning(format!("not this host's: {}", list(&others)))
        .costs("connections to them time out, unless something gives it the address later")
        .mend("or --claim-vips, which takes them while the router runs");
    Ok(vec![match commands.len() {
        0..=SOME => found.command(commands.join(" && ")),
        _ => found,
    }])
}

/// More commands than that nobody pastes.
const SOME: usize = 8;

const NO_V6: &str = "net.ipv6.conf.lo.disable_ipv6";

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::network::Route;
    use super::super::tests::Sample;
    use super::*;

    #[test]
    fn vip_that_the_host_does_not_have_is_told_with_how_to_add_it() {
        let mut sample = Sample::new();
        assert_eq!(sample.worst(vips).level, Level::Ok);
        let v6: IpAddr = "2001:db8::7".parse().unwrap();
        let v4: IpAddr = [198, 51, 100, 7].into();
        sample.site().plan.vips.extend([v4, v6]);
        let found = sample.worst(vips);
        assert_eq!(found.level, Level::Warning);
        assert_eq!(
            found.command.unwrap(),
            "ip addr add 198.51.100.7/32 dev lo && ip addr add 2001:db8::7/128 dev lo"
        );
        // As a local route, of a prefix or of a router that claims it.
        let local = Route {
            is_local: true,
            ..Route::default()
        };
        sample.network().routes.insert(v4, Ok(local));
        sample.network().addresses.insert(v6);
        assert_eq!(sample.worst(vips).level, Level::Ok);
        sample.network().addresses.remove(&v6);
        sample.facts.wanted.claim_vips = true;
        let found = sample.worst(vips);
        assert_eq!(found.level, Level::Ok);
        assert!(found.what.contains("2001:db8::7"), "{found:?}");
        sample.write("proc/sys/net/ipv6/conf/lo/disable_ipv6", "1\n");
        let found = sample.worst(vips);
        assert_eq!(found.level, Level::Error);
        assert_eq!(
            found.command.unwrap(),
            "sysctl -w net.ipv6.conf.lo.disable_ipv6=0"
        );
    }

    #[test]
    fn manifests_that_cannot_be_read_are_an_error_and_wrong_ones_a_warning() {
        let mut sample = Sample::new();
        assert_eq!(sample.worst(manifests).what, "VIPs: 1, endpoints: 1");
        sample.site().errors = 2;
        assert_eq!(sample.worst(manifests).level, Level::Warning);
        sample.facts.site = Some(Err("no such directory".into()));
        assert_eq!(sample.worst(manifests).level, Level::Error);
        assert_eq!(vips(&sample.facts), Ok(Vec::new()));
        sample.facts.site = None;
        assert_eq!(manifests(&sample.facts), Ok(Vec::new()));
    }
}
