//! A host of the tests' own, and what is true of all checks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

use super::finding::Outcome;
use super::host::Host;
use super::network::{Link, Network, Route};
use super::others::Hooked;
use super::*;
use crate::datapath::bpf::Attach;
use crate::datapath::bpf::{Layer, Survey, Taken};
use crate::datapath::choose::{Choice, Open, TcPorts};
use crate::takeover::PinDir;

/// A host on which all is well: `eth0` towards clients with the VIP 192.0.2.1, `eth1` towards the
/// endpoint 198.51.100.2.
pub(super) struct Sample {
    pub(super) facts: Facts,
    root: TempDir,
}

/// Of `/proc/self/status`, for a process of root.
pub(super) const STATUS: &str = "Name:\tsni-router\nUmask:\t0022\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n\
                                 CapInh:\t0000000000000000\nCapEff:\t000001ffffffffff\nSeccomp:\t0\n";

const FILES: [(&str, &str); 14] = [
    ("proc/sys/kernel/osrelease", "6.12.0-1-amd64\n"),
    ("proc/self/status", STATUS),
    ("proc/self/uid_map", "         0          0 4294967295\n"),
    (
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units     \n\
         Max open files            1024                 524288               files     \n",
    ),
    (
        "proc/self/net/tcp",
        "  sl  local_address rem_address   st\n",
    ),
    ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
    ("proc/sys/net/ipv4/ip_local_reserved_ports", "\n"),
    ("proc/sys/net/ipv4/ip_unprivileged_port_start", "1024\n"),
    ("proc/sys/net/ipv4/conf/all/rp_filter", "0\n"),
    ("proc/sys/net/ipv4/conf/eth0/rp_filter", "0\n"),
    ("proc/sys/net/ipv4/conf/eth1/rp_filter", "0\n"),
    ("proc/sys/net/core/somaxconn", "4096\n"),
    ("proc/sys/net/ipv4/tcp_window_scaling", "1\n"),
    ("proc/sys/net/ipv4/tcp_sack", "1\n"),
];

impl Sample {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let own: IpAddr = [192, 0, 2, 1].into();
        let endpoint: IpAddr = [198, 51, 100, 2].into();
        let mut plan = sni_router_core::plan::Plan::default();
        plan.vips.insert(own);
        plan.bind.insert((own, 443).into());
        let route = |interface| Route {
            is_v4: true,
            interface,
            protocol: 3,
            ..Route::default()
        };
        let network = Network {
            links: vec![link(1, "lo"), link(2, "eth0"), link(3, "eth1")],
            addresses: [own].into(),
            routes: [(endpoint, Ok(route(3)))].into(),
            defaults: vec![Route {
                gateway: Some([192, 0, 2, 254].into()),
                ..route(2)
            }],
        };
        let facts = Facts {
            host: Host::at(root.path()),
            wanted: Wanted {
                datapath: Choice::Auto,
                ports: TcPorts {
                    range: 10_000..=29_999,
                    reserve: false,
                    sources: Vec::new(),
                    attach: Attach::Auto,
                    open: Open::Sockets,
                    shortcuts: Vec::new(),
                },
                pins: PinDir::Preferred("/sys/fs/bpf/sni-router".into()),
                claim_vips: false,
            },
            network: Ok(network),
            programs: Some(Ok(Taken {
                is_compiled: Some(true),
            })),
            hooked: Some(Hooked {
                tcx: Ok(BTreeMap::new()),
                lookup: Ok(Vec::new()),
                names: BTreeMap::new(),
            }),
            pins: Some(Ok(Survey {
                is_writable: true,
                owner: None,
                links: 0,
                foreign: Vec::new(),
            })),
            policies: Ok(0),
            sources: Vec::new(),
            site: Some(Ok(Site {
                plan,
                endpoints: [endpoint].into(),
                errors: 0,
            })),
        };
        let sample = Self { facts, root };
        for (path, text) in FILES {
            sample.write(path, text);
        }
        sample
    }

    /// Writes a file of the host.
    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Changes a word of a file, which must be there.
    #[track_caller]
    pub(super) fn edit(&self, path: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.root.path().join(path)).unwrap();
        assert!(text.contains(from), "{from:?} is not in {path}");
        self.write(path, &text.replace(from, to));
    }

    pub(super) fn remove(&self, path: &str) {
        fs::remove_file(self.root.path().join(path)).unwrap();
    }

    pub(super) fn link(&self, path: &str, target: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    pub(super) fn network(&mut self) -> &mut Network {
        self.facts.network.as_mut().unwrap()
    }

    pub(super) fn site(&mut self) -> &mut Site {
        self.facts.site.as_mut().unwrap().as_mut().unwrap()
    }

    pub(super) fn survey(&mut self, change: impl FnOnce(&mut Survey)) {
        change(self.facts.pins.as_mut().unwrap().as_mut().unwrap());
    }

    /// The worst that a check finds.
    #[track_caller]
    pub(super) fn worst(&self, check: fn(&Facts) -> Outcome) -> Finding {
        let findings = check(&self.facts).unwrap_or_else(|found| vec![found]);
        let worst = findings.into_iter().max_by_key(|found| found.level);
        worst.expect("a check that was made has found something")
    }
}

fn link(index: u32, name: &str) -> Link {
    let is_loopback = name == "lo";
    Link {
        index,
        name: name.to_owned(),
        mtu: 1500,
        is_loopback,
        layer: (!is_loopback).then_some(Layer::Ether),
        is_up: true,
        has_carrier: true,
        has_v4: true,
        lro: Some(false),
        gro: Some(true),
        ..Link::default()
    }
}

#[test]
fn nothing_is_found_on_a_host_on_which_all_is_well() {
    let report = Report::of(&Sample::new().facts);
    assert_eq!(report.checks.len(), CHECKS.len());
    for checked in &report.checks {
        for finding in &checked.findings {
            assert_eq!(finding.level, Level::Ok, "{}: {finding:?}", checked.name);
        }
    }
    assert_eq!(report.count(Level::Ok), report.count_all());
}

/// As in a container that shows nothing of its host.
#[test]
fn host_without_files_or_netlink_makes_no_check_fail() {
    for datapath in [Choice::Auto, Choice::Tc, Choice::Sockmap, Choice::Userspace] {
        let mut sample = Sample::new();
        sample.facts.host = Host::at(Path::new("/nonexistent"));
        sample.facts.network = Err("no netlink".into());
        sample.facts.wanted.datapath = datapath;
        let report = Report::of(&sample.facts);
        assert_eq!(report.checks.len(), CHECKS.len());
        assert!(report.count(Level::Unknown) > 5, "{report:?}");
        assert_eq!(report.count(Level::Error), 0, "{report:?}");
    }
}

#[test]
fn every_finding_says_what_it_costs_and_every_command_is_one_line() {
    let mut sample = Sample::new();
    for (path, _) in FILES {
        if path.starts_with("proc/sys/net") && !path.ends_with("reserved_ports") {
            sample.write(
                path,
                if path.ends_with("range") {
                    "1 65535"
                } else {
                    "0"
                },
            );
        }
    }
    sample.write("proc/sys/net/ipv4/conf/all/rp_filter", "1");
    sample.facts.network.as_mut().unwrap().links[2].mtu = 1280;
    sample.site().plan.vips.insert([192, 0, 2, 77].into());
    let report = Report::of(&sample.facts);
    let bad: Vec<_> = report
        .checks
        .iter()
        .flat_map(|checked| &checked.findings)
        .filter(|finding| finding.level >= Level::Note)
        .collect();
    assert!(bad.len() >= 7, "{bad:#?}");
    for finding in bad {
        assert!(finding.costs.is_some(), "{finding:?}");
        let command = finding.command.as_deref().unwrap_or_default();
        assert!(!command.contains('\n'), "{finding:?}");
    }
}

#[test]
fn every_check_is_in_the_documentation_and_nothing_else() {
    let text = include_str!("../../../docs/doctor.md");
    let (_, section) = text.split_once("\n## Checks\n").unwrap();
    let named: BTreeSet<_> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    let checks: BTreeSet<_> = CHECKS.iter().map(|(name, _)| *name).collect();
    assert_eq!(named, checks);
    assert_eq!(checks.len(), CHECKS.len(), "two checks have one name");
}

impl Report {
    fn count_all(&self) -> usize {
        self.checks
            .iter()
            .map(|checked| checked.findings.len())
            .sum()
    }
}
