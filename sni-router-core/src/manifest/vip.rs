//! Virtual IPs: texts to addresses a listener can be served on.

use std::net::{IpAddr, Ipv4Addr};

use super::report::Report;
use crate::model::Vip;

/// The addresses of a Listener, none twice. Errors are in the report.
pub(super) fn vips(vip: Option<&str>, secondary: &[String], report: &mut Report) -> Vec<Vip> {
    let mut vips = Vec::new();
    match vip {
        Some(text) => vips.extend(parse(text, "spec.vip", report).map(Vip::Addr)),
        None => {
            if !secondary.is_empty() {
                let what = "have no effect beside every local address, which an absent vip means";
                report.warning(
                    "spec.secondaryVips",
                    what,
                    "name a vip too, or leave them out",
                );
            }
            return vec![Vip::Any];
        }
    }
    if secondary.len() > MOST_SECONDARY {
        let what = format!(
            "names {} addresses, and {MOST_SECONDARY} are the most",
            secondary.len()
        );
        let hint = "write further Listeners, or leave vip out to serve every local address";
        report.error("spec.secondaryVips", what, hint);
        return vips;
    }
    for (index, text) in secondary.iter().enumerate() {
        let path = format!("spec.secondaryVips[{index}]");
        let Some(addr) = parse(text, &path, report) else {
            continue;
        };
        if vips.contains(&Vip::Addr(addr)) {
            report.warning(path, format!("{addr} is there twice"), "remove one");
            continue;
        }
        vips.push(Vip::Addr(addr));
    }
    vips
}

fn parse(text: &str, path: &str, report: &mut Report) -> Option<IpAddr> {
    let Ok(addr) = text.trim().parse::<IpAddr>() else {
        report.error(path, format!("{text:?} is not an IP address"), hint(text));
        return None;
    };
    let addr = addr.to_canonical();
    let unusable = if addr.is_unspecified() {
        Some("leave vip out to serve every local address")
    } else if addr.is_multicast() || addr == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("write the address of one host")
    } else if matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local()) {
        Some("write another address of the host: a link-local one is of one link only")
    } else {
        None
    };
    if let Some(hint) = unusable {
        report.error(
            path,
            format!("{addr} is not an address that clients can connect to"),
            hint,
        );
        return None;
    }
    Some(addr)
}

fn hint(text: &str) -> &'static str {
    if text.contains('/') {
        "write the address without a prefix length"
    } else if text.contains('%') {
        "write the address without a zone"
    } else if text.starts_with('[') || text.parse::<std::net::SocketAddr>().is_ok() {
        "write the address alone, the port goes to spec.port"
    } else if text.trim().is_empty() {
        "leave vip out to serve every local address"
    } else {
        "write an IPv4 or IPv6 address"
    }
}

/// So many further addresses a Listener may have: every one takes a place in the kernel, of which
/// one object must not have them all.
const MOST_SECONDARY: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::ObjectRef;

    fn read(vip: Option<&str>, secondary: &[&str]) -> (Vec<Vip>, Vec<String>) {
        let mut report = Report::new(ObjectRef::file("x"));
        let secondary: Vec<_> = secondary.iter().map(|text| (*text).to_owned()).collect();
        let vips = vips(vip, &secondary, &mut report);
        (
            vips,
            report
                .into_problems()
                .iter()
                .map(ToString::to_string)
                .collect(),
        )
    }

    #[test]
    fn mapped_address_is_the_ipv4_address_it_maps() {
        let (vips, problems) = read(Some("::ffff:1.2.3.4"), &["1.2.3.4", "2001:DB8::1"]);
        let addr = |text: &str| Vip::Addr(text.parse().unwrap());
        assert_eq!(vips, [addr("1.2.3.4"), addr("2001:db8::1")]);
        assert_eq!(problems.len(), 1, "{problems:?}");
    }

    #[test]
    fn too_many_addresses_are_one_error() {
        let texts: Vec<_> = (0..=MOST_SECONDARY)
            .map(|n| format!("192.0.2.{n}"))
            .collect();
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        let (vips, problems) = read(Some("198.51.100.1"), &texts[..MOST_SECONDARY]);
        assert_eq!((vips.len(), problems.len()), (MOST_SECONDARY + 1, 0));
        let (_, problems) = read(Some("198.51.100.1"), &texts);
        assert_eq!(problems.len(), 1, "{problems:?}");
    }

    #[test]
    fn absent_vip_is_every_local_address() {
        assert_eq!(read(None, &[]), (vec![Vip::Any], vec![]));
    }

    #[test]
    fn address_nobody_can_connect_to_is_refused() {
        for text in [
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "",
            "a",
            "1.2.3",
            "fe80::1%eth0",
            "fe80::1",
            "1.2.3.4/32",
        ] {
            let (vips, problems) = read(Some(text), &[]);
            assert!(
                vips.is_empty() && problems.len() == 1,
                "{text}: {vips:?} {problems:?}"
            );
        }
    }
}
