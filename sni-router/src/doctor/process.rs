//! What this process may do: the router started in its place may do the same.

use rustix::thread::CapabilitySet;

use super::facts::Facts;
use super::finding::{Finding, Level, Outcome, list};
use super::host::{AS_ROOT, Host};
use super::kernel::WITHOUT_TC;
use crate::datapath::bpf::missing_capabilities;
use crate::datapath::choose::Choice;

/// What the kernel says of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// Whether its effective user is root, of this user namespace.
    pub(super) is_root: bool,
    /// Effective ones.
    pub(super) capabilities: CapabilitySet,
    /// Whether a seccomp filter looks at its system calls.
    pub(super) is_filtered: bool,
    /// Whether it is in a user namespace of its own.
    pub(super) is_in_user_namespace: bool,
}

impl Process {
    /// Of the process that asks.
    pub(super) fn of(host: &Host) -> Result<Self, Finding> {
        let status = host.need("proc/self/status")?;
        // Without user namespaces there is none.
        let uids = host.read("proc/self/uid_map").unwrap_or_default();
        Self::parse(&status, &uids)
            .ok_or_else(|| Finding::unknown("/proc/self/status says nothing of capabilities"))
    }

    /// From the texts of `/proc/self/status` and `/proc/self/uid_map`.
    fn parse(status: &str, uids: &str) -> Option<Self> {
        let field = |name| {
            let mut lines = status.lines();
            lines
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        let capabilities = u64::from_str_radix(field("CapEff:")?, 16).ok()?;
        let uids: Vec<_> = uids.split_whitespace().collect();
        Some(Self {
            is_root: field("Uid:")?.split_whitespace().nth(1)? == "0",
            capabilities: CapabilitySet::from_bits_retain(capabilities),
            is_filtered: field("Seccomp:") == Some("2"),
            is_in_user_namespace: !uids.is_empty() && uids != ["0", "0", "4294967295"],
        })
    }

    /// A finding of this level about rights that are missing; unknown where the router will hardly
    /// be started as this process was.
    fn lacks(&self, level: Level, what: String) -> Finding {
        if self.is_root || !self.capabilities.is_empty() {
            return Finding::at(level, what);
        }
        Finding::unknown(format!(
            "{what}; whether the router will have it is not known"
        ))
        .mend(AS_ROOT)
    }
}

/// `capabilities`: those that the kernel asks for.
pub(super) fn capabilities(facts: &Facts) -> Outcome {
    let process = Process::of(&facts.host)?;
    let wanted = &facts.wanted;
    if wanted.uses_bpf() && process.is_in_user_namespace {
        return Err(Finding::at(
            wanted.without_bpf(),
            "this is a user namespace, whose capabilities do not count for bpf(2)",
        )
        .costs(WITHOUT_TC)
        .mend("a container of root (Kubernetes: hostUsers: true)"));
    }
    let mut findings = Vec::new();
    let missing = missing_capabilities(process.capabilities);
    let has = |capability| process.capabilities.contains(capability);
    if wanted.uses_bpf() && !missing.is_empty() {
        let found = process.lacks(wanted.without_bpf(), format!("no {}", list(&missing)));
        findings.push(match found.level {
            Level::Unknown => found,
            _ => found.costs(WITHOUT_TC).mend(
                "grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: AmbientCapabilities= of the unit, \
                 securityContext of the container",
            ),
        });
    } else if wanted.claim_vips && !has(CapabilitySet::NET_ADMIN) {
        let found = process.lacks(Level::Error, "no CAP_NET_ADMIN".into());
        findings.push(found.costs("no VIP is claimed"));
    }
    if wanted.datapath == Choice::Userspace
        && !has(CapabilitySet::NET_BIND_SERVICE)
        && let Some(port) = facts.lowest_port()
        && u64::from(port) < facts.host.number(UNPRIVILEGED)?
    {
        let found = process.lacks(Level::Error, "no CAP_NET_BIND_SERVICE".into());
        findings.push(found.costs(format!("port {port} is not served")));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("all that are needed"));
    }
    Ok(findings)
}

/// `descriptors`: how many this process may open. The router raises the soft limit to the hard one.
pub(super) fn descriptors(facts: &Facts) -> Outcome {
    let limits = facts.host.need("proc/self/limits")?;
    let Some(limit) = hard_limit(&limits) else {
        return Err(Finding::unknown(
            "/proc/self/limits says nothing of open files",
        ));
    };
    if limit >= MANY {
        return Ok(vec![Finding::ok(format!("{limit} at most"))]);
    }
    let is_for_all = !facts.wanted.uses_tc() || limit < FEW;
    let level = if is_for_all {
        Level::Warning
    } else {
        Level::Note
    };
    let room = limit / EACH;
    Ok(vec![
        Finding::at(level, format!("{limit} at most"))
            .costs(format!(
                "no more than about {room} connections at once that tc does not carry"
            ))
            .mend(
                "LimitNOFILE=1048576 in the unit, --ulimit nofile=1048576 for a container, \
                 `ulimit -n 1048576` in the shell that starts the router",
            ),
    ])
}

/// The hard limit of `Max open files` in `/proc/self/limits`.
fn hard_limit(limits: &str) -> Option<u64> {
    let mut lines = limits.lines();
    let values = lines.find_map(|line| line.strip_prefix("Max open files"))?;
    match values.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// The first port that needs no capability.
const UNPRIVILEGED: &str = "net.ipv4.ip_unprivileged_port_start";

/// Two sockets, and half of a pipe's two ends: not every connection needs one.
const EACH: u64 = 3;

/// Enough for the 16,384 connections that may be without a hello, and as many that are carried.
const MANY: u64 = 65_536;

/// What a shell or an old service manager gives.
const FEW: u64 = 4_096;

#[cfg(test)]
mod tests {
    use super::super::tests::{STATUS, Sample};
    use super::*;

    #[test]
    fn process_is_read_from_what_the_kernel_says() {
        let root = Process::parse(STATUS, "         0          0 4294967295").unwrap();
        assert!(root.is_root && !root.is_filtered && !root.is_in_user_namespace);
        assert!(
            root.capabilities
                .contains(CapabilitySet::BPF | CapabilitySet::PERFMON)
        );
        let user = STATUS
            .replace("Uid:\t0\t0", "Uid:\t1000\t1000")
            .replace("000001ffffffffff", "0000000000000000")
            .replace("Seccomp:\t0", "Seccomp:\t2");
        let user = Process::parse(&user, "0 100000 65536").unwrap();
        assert!(!user.is_root && user.is_filtered && user.is_in_user_namespace);
        assert!(user.capabilities.is_empty());
        for text in ["", "CapEff:\tx\nUid:\t0\t0", "Uid:\t0\t0"] {
            assert_eq!(Process::parse(text, ""), None, "{text:?}");
        }
    }

    #[test]
    fn missing_capability_is_a_warning_for_root_and_unknown_for_a_user() {
        let mut sample = Sample::new();
        assert_eq!(sample.worst(capabilities).level, Level::Ok);
        // CAP_BPF, bit 39, and CAP_SYS_ADMIN, bit 21, are gone.
        sample.edit("proc/self/status", "000001ffffffffff", "0000017fffdfffff");
        let found = sample.worst(capabilities);
        assert_eq!(found.level, Level::Warning);
        assert!(found.what.contains("CAP_BPF"), "{found:?}");
        assert!(!found.what.contains("CAP_PERFMON"), "{found:?}");
        sample.facts.wanted.datapath = Choice::Tc;
        assert_eq!(sample.worst(capabilities).level, Level::Error);
        sample.edit("proc/self/status", "0000017fffdfffff", "0000000000000000");
        sample.edit("proc/self/status", "Uid:\t0\t0", "Uid:\t1000\t1000");
        let found = sample.worst(capabilities);
        assert_eq!(found.level, Level::Unknown);
        assert_eq!(found.mend.unwrap(), AS_ROOT);
    }

    #[test]
    fn userspace_needs_a_capability_for_low_ports_only() {
        let mut sample = Sample::new();
        sample.facts.wanted.datapath = Choice::Userspace;
        sample.edit("proc/self/status", "000001ffffffffff", "0000000000000001");
        let found = sample.worst(capabilities);
        assert_eq!(found.level, Level::Error);
        assert!(found.costs.unwrap().contains("443"));
        sample.write("proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
        assert_eq!(sample.worst(capabilities).level, Level::Ok);
        sample.facts.wanted.claim_vips = true;
        assert!(sample.worst(capabilities).what.contains("CAP_NET_ADMIN"));
    }

    #[test]
    fn user_namespace_has_no_capabilities_that_count() {
        let sample = Sample::new();
        sample.write("proc/self/uid_map", "0 100000 65536\n");
        let found = sample.worst(capabilities);
        assert_eq!(found.level, Level::Warning);
        assert!(found.what.contains("user namespace"));
    }

    #[test]
    fn few_descriptors_are_told_with_how_many_connections_they_are() {
        let sample = Sample::new();
        assert_eq!(sample.worst(descriptors).level, Level::Ok);
        for (limit, expected) in [
            ("20000", Level::Note),
            ("1024", Level::Warning),
            ("unlimited", Level::Ok),
            ("x", Level::Unknown),
        ] {
            let line = format!(
                "Max open files            1024                 {limit}                files"
            );
            sample.write("proc/self/limits", &line);
            assert_eq!(sample.worst(descriptors).level, expected, "{limit}");
        }
    }
}
