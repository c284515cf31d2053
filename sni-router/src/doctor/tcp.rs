//! What the kernel does with connections before and beside the router.

use super::facts::Facts;
use super::finding::{Finding, Level, Outcome};
use crate::listen::BACKLOG;

/// `backlog`: how many connections may wait to be accepted.
pub(super) fn backlog(facts: &Facts) -> Outcome {
    let most = facts.host.number(BACKLOG_LIMIT)?;
    let wanted = u64::from(BACKLOG.unsigned_abs());
    if most >= wanted {
        return Ok(vec![Finding::ok(format!(
            "{wanted} connections a worker may wait"
        ))]);
    }
    Ok(vec![
        Finding::warning(format!(
            "{BACKLOG_LIMIT} is {most}; the router asks for {wanted}"
        ))
        .costs(format!(
            "of a burst, what exceeds {most} new connections a worker is dropped, and tried \
                 again by its client a second later"
        ))
        .command(format!("sysctl -w {BACKLOG_LIMIT}={wanted}"))
        .mend("before the router starts"),
    ])
}

/// `tcp-options`: those that clients and endpoints are offered.
pub(super) fn tcp_options(facts: &Facts) -> Outcome {
    let mut findings = Vec::new();
    for (name, costs) in [
        (
            "net.ipv4.tcp_window_scaling",
            "no more than 64 KiB a round trip on any connection: 5 MB/s at 12 ms",
        ),
        (
            "net.ipv4.tcp_sack",
            "a connection that loses several packets waits for each of them in turn",
        ),
    ] {
        match facts.host.number(name) {
            Ok(0) => findings.push(
                Finding::warning(format!("{name} is 0"))
                    .costs(format!("{costs}; with the tc datapath from end to end"))
                    .command(format!("sysctl -w {name}=1")),
            ),
            Ok(_) => {}
            Err(found) => findings.push(found),
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok("window scaling and SACK"));
    }
    Ok(findings)
}

/// `conntrack`: room in the table of tracked connections.
pub(super) fn conntrack(facts: &Facts) -> Outcome {
    let Ok(count) = facts.host.number("net.netfilter.nf_conntrack_count") else {
        return Ok(vec![Finding::ok("connections are not tracked")]);
    };
    let most = facts.host.number(TRACKED)?;
    let what = format!("{count} of {most} entries are taken");
    let level = match count.saturating_mul(10).checked_div(most) {
        // No limit.
        None => Level::Ok,
        Some(0..FULL) => Level::Ok,
        Some(FULL..10) => Level::Warning,
        Some(10..) => Level::Error,
    };
    if level == Level::Ok {
        return Ok(vec![Finding::ok(what)]);
    }
    let now = if level == Level::Error {
        "are"
    } else {
        "will be"
    };
    Ok(vec![
        Finding::at(level, what)
            .costs(format!("packets of new connections {now} dropped"))
            .command(format!("sysctl -w {TRACKED}={}", most.saturating_mul(2)))
            .mend("in the host's own network namespace; or rules that do not track (notrack)"),
    ])
}

const BACKLOG_LIMIT: &str = "net.core.somaxconn";
const TRACKED: &str = "net.netfilter.nf_conntrack_max";

/// Tenths that are taken of a table that will be full soon.
const FULL: u64 = 9;

#[cfg(test)]
mod tests {
    use super::super::tests::Sample;
    use super::*;

    #[test]
    fn short_backlog_is_told_with_the_setting() {
        let sample = Sample::new();
        assert_eq!(sample.worst(backlog).level, Level::Ok);
        sample.write("proc/sys/net/core/somaxconn", "128");
        let found = sample.worst(backlog);
        assert_eq!(found.level, Level::Warning);
        assert_eq!(found.command.unwrap(), "sysctl -w net.core.somaxconn=4096");
        sample.remove("proc/sys/net/core/somaxconn");
        assert_eq!(sample.worst(backlog).level, Level::Unknown);
    }

    #[test]
    fn options_that_are_off_are_told() {
        let sample = Sample::new();
        assert_eq!(sample.worst(tcp_options).level, Level::Ok);
        sample.write("proc/sys/net/ipv4/tcp_sack", "0");
        let found = sample.worst(tcp_options);
        assert_eq!(found.command.unwrap(), "sysctl -w net.ipv4.tcp_sack=1");
        sample.remove("proc/sys/net/ipv4/tcp_window_scaling");
        assert_eq!(tcp_options(&sample.facts).unwrap().len(), 2);
    }

    #[test]
    fn table_of_tracked_connections_is_told_when_it_fills() {
        let sample = Sample::new();
        let found = sample.worst(conntrack);
        assert_eq!(&*found.what, "connections are not tracked");
        for (count, most, expected) in [
            ("0", "65536", Level::Ok),
            ("58982", "65536", Level::Ok),
            ("58983", "65536", Level::Warning),
            ("65536", "65536", Level::Error),
            ("70000", "65536", Level::Error),
            ("5", "0", Level::Ok),
        ] {
            sample.write("proc/sys/net/netfilter/nf_conntrack_count", count);
            sample.write("proc/sys/net/netfilter/nf_conntrack_max", most);
            assert_eq!(sample.worst(conntrack).level, expected, "{count} of {most}");
        }
        sample.remove("proc/sys/net/netfilter/nf_conntrack_max");
        assert_eq!(sample.worst(conntrack).level, Level::Unknown);
    }
}
