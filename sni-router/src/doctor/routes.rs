//! The ways to endpoints, and what fits on them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::facts::Facts;
use super::finding::{Finding, Outcome, list};
use super::network::{Link, Network, Route};

/// `routes`: that there is a way to each endpoint.
pub(super) fn routes(facts: &Facts) -> Outcome {
    let Some(site) = facts.site() else {
        return Ok(Vec::new());
    };
    let network = facts.network()?;
    let mut nowhere: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let mut own = Vec::new();
    let mut by: BTreeMap<u32, Vec<IpAddr>> = BTreeMap::new();
    for endpoint in &site.endpoints {
        match network.routes.get(endpoint) {
            Some(Ok(route)) if route.is_local => own.push(*endpoint),
            Some(Ok(route)) => by.entry(route.interface).or_default().push(*endpoint),
            Some(Err(error)) => nowhere
                .entry(error.to_string())
                .or_default()
                .push(*endpoint),
            None => {}
        }
    }
    let mut findings = Vec::new();
    for (error, endpoints) in nowhere {
        findings.push(
            Finding::error(format!("no way to {}: {error}", list(endpoints)))
                .costs("connections to them fail")
                .mend("a route to them, in the network configuration of this host"),
        );
    }
    if !own.is_empty() {
        let found = Finding::note(format!("on this host itself: {}", list(own)));
        findings.push(match facts.wanted.uses_tc() {
            true => {
                found.costs("connections to them are carried in userspace: tc sees no handshake")
            }
            false => found,
        });
    }
    for (index, endpoints) in by {
        let Some(link) = network.link(index) else {
            continue;
        };
        if !link.has_carrier {
            findings.push(
                Finding::warning(format!("{} has no carrier: {}", link.name, list(endpoints)))
                    .costs("connections to them fail")
                    .mend("look at the cable, or at the other end"),
            );
            continue;
        }
        let (name, mtu) = (&link.name, link.mtu);
        let what = format!("by {name} (MTU {mtu}): {}", list(endpoints));
        findings.push(Finding::ok(what));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("no endpoints"));
    }
    Ok(findings)
}

/// `mtu`: that what clients send fits on the ways to endpoints. The two ends of a connection that
/// `tc` carries are those of one path.
pub(super) fn mtu(facts: &Facts) -> Outcome {
    let Some(site) = facts.site() else {
        return Ok(Vec::new());
    };
    if !facts.wanted.uses_tc() {
        return Ok(vec![Finding::ok(
            "each side for itself without the tc datapath",
        )]);
    }
    let network = facts.network()?;
    let mut findings = Vec::new();
    for clients in &network.defaults {
        let Some((link, most)) = from_clients(network, clients) else {
            continue;
        };
        let mut narrow: Vec<(u32, IpAddr)> = Vec::new();
        for endpoint in site
            .endpoints
            .iter()
            .filter(|it| it.is_ipv4() == clients.is_v4)
        {
            let route = network
                .routes
                .get(endpoint)
                .and_then(|route| route.as_ref().ok());
            let mtu = route
                .filter(|it| !it.is_local)
                .and_then(|it| network.mtu(it));
            narrow.extend(mtu.filter(|mtu| *mtu < most).map(|mtu| (mtu, *endpoint)));
        }
        let Some(least) = narrow.iter().map(|(mtu, _)| *mtu).min() else {
            let family = if clients.is_v4 { "IPv4" } else { "IPv6" };
            let what = format!(
                "packets of {most} from clients fit ({family}, {})",
                link.name
            );
            findings.push(Finding::ok(what));
            continue;
        };
        let endpoints = list(narrow.iter().map(|(_, endpoint)| endpoint));
        findings.push(
            Finding::warning(format!(
                "clients send packets of {most} ({}); {least} fits to {endpoints}",
                link.name
            ))
            .costs(
                "the router asks clients for smaller ones by ICMP (fragmentation needed); where \
                 that is filtered, their uploads stall",
            )
            .command(announce(
                clients,
                link,
                least.saturating_sub(headers(clients)),
            ))
            .mend("to stay, in the network configuration; for other routes to clients likewise"),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            "not compared: there is no default route that clients could come by",
        ));
    }
    Ok(findings)
}

/// The interface of clients, and the largest packet that they send.
fn from_clients<'n>(network: &'n Network, clients: &Route) -> Option<(&'n Link, u32)> {
    let link = network.link(clients.interface)?;
    let told = clients
        .advmss
        .map_or(u32::MAX, |mss| mss.saturating_add(headers(clients)));
    Some((link, network.mtu(clients)?.min(told)))
}

/// A command that has peers of a route told to send segments of so many bytes at most, and changes
/// nothing else of it.
fn announce(route: &Route, link: &Link, mss: u32) -> String {
    let mut command = String::from(if route.is_v4 { "ip" } else { "ip -6" });
    command += " route change default";
    if let Some(gateway) = route.gateway {
        command += &format!(" via {gateway}");
    }
    command += &format!(" dev {} proto {}", link.name, route.protocol);
    if let Some(priority) = route.priority {
        command += &format!(" metric {priority}");
    }
    if let Some(source) = route.source {
        command += &format!(" src {source}");
    }
    if let Some(mtu) = route.mtu {
        command += &format!(" mtu {mtu}");
    }
    if route.is_onlink {
        command += " onlink";
    }
    format!("{command} advmss {mss}")
}

/// Bytes of the IP and TCP headers without options.
fn headers(route: &Route) -> u32 {
    if route.is_v4 { 40 } else { 60 }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::finding::Level;
    use super::super::tests::Sample;
    use super::*;
    use crate::datapath::choose::Choice;

    const ENDPOINT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 2));

    #[test]
    fn endpoint_without_a_way_is_an_error_and_one_on_this_host_a_note() {
        let mut sample = Sample::new();
        assert_eq!(
            sample.worst(routes).what,
            "by eth1 (MTU 1500): 198.51.100.2"
        );
        sample.network().links[2].has_carrier = false;
        assert_eq!(sample.worst(routes).level, Level::Warning);
        let local = Route {
            is_local: true,
            interface: 1,
            ..Route::default()
        };
        sample.network().routes.insert(ENDPOINT, Ok(local));
        assert_eq!(sample.worst(routes).level, Level::Note);
        let unreachable = io::Error::from_raw_os_error(libc::ENETUNREACH);
        sample.network().routes.insert(ENDPOINT, Err(unreachable));
        let found = sample.worst(routes);
        assert_eq!(found.level, Level::Error);
        assert!(found.what.contains("198.51.100.2"), "{found:?}");
        sample.site().endpoints.clear();
        assert_eq!(sample.worst(routes).level, Level::Ok);
    }

    #[test]
    fn narrow_way_is_told_with_what_clients_should_hear_until_they_do() {
        let mut sample = Sample::new();
        assert_eq!(sample.worst(mtu).level, Level::Ok);
        sample.network().links[2].mtu = 1400;
        let found = sample.worst(mtu);
        assert_eq!(found.level, Level::Warning);
        assert_eq!(
            found.command.unwrap(),
            "ip route change default via 192.0.2.254 dev eth0 proto 3 advmss 1360"
        );
        sample.facts.wanted.datapath = Choice::Userspace;
        assert_eq!(sample.worst(mtu).level, Level::Ok);
        sample.facts.wanted.datapath = Choice::Auto;
        sample.network().defaults[0].advmss = Some(1360);
        assert_eq!(sample.worst(mtu).level, Level::Ok);
        sample.network().defaults[0].advmss = Some(1361);
        assert_eq!(sample.worst(mtu).level, Level::Warning);
        sample.network().defaults.clear();
        assert!(sample.worst(mtu).what.contains("not compared"));
    }

    #[test]
    fn command_keeps_what_the_route_has() {
        let link = Link {
            name: "eth0".into(),
            ..Link::default()
        };
        let route = Route {
            gateway: Some("fe80::1".parse().unwrap()),
            protocol: 9,
            priority: Some(1024),
            source: Some("2001:db8::1".parse().unwrap()),
            mtu: Some(1480),
            is_onlink: true,
            ..Route::default()
        };
        assert_eq!(
            announce(&route, &link, 1300),
            "ip -6 route change default via fe80::1 dev eth0 proto 9 metric 1024 src 2001:db8::1 \
             mtu 1480 onlink advmss 1300"
        );
    }
}
