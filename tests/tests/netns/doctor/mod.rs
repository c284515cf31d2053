//! `sni-router doctor` in a namespace that is made bad: it is found, and what it says mends it.

mod neighbours;
mod rights;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use rstest::rstest;
use serde_json::Value;
use sni_router_tests::bpffs::Bpffs;
use sni_router_tests::daemon::binary;
use sni_router_tests::netns::Namespace;
use sni_router_tests::rig::{HOST, Lab, Rig};
use sni_router_tests::site::Site;
use sni_router_tests::topology::Leg;

/// A lab whose router's namespace lacks nothing.
struct Patient {
    lab: Lab,
    bpffs: Bpffs,
}

/// What `doctor` has printed.
struct Report {
    json: Value,
    code: Option<i32>,
}

impl Patient {
    fn new() -> Self {
        let (lab, bpffs) = (Lab::new(1), Bpffs::mount());
        Rig::site(&lab).write_to(&lab.manifests());
        let router = &lab.net.router;
        for scope in ["all", "client", "backend0"] {
            router.sysctl(&format!("ipv4/conf/{scope}/rp_filter"), "0");
        }
        router.sysctl("core/somaxconn", "4096");
        // Clients come by the default route.
        router.batch("route add default via 192.168.10.2 dev client\n");
        Self { lab, bpffs }
    }

    fn ns(&self) -> &Namespace {
        &self.lab.net.router
    }

    /// Runs it with the flags of a router that claims VIPs.
    #[track_caller]
    fn examine(&self) -> Report {
        self.examine_with(&["--datapath", "tc", "--claim-vips"])
    }

    #[track_caller]
    fn examine_with(&self, args: &[&str]) -> Report {
        let mut command = self.command(binary());
        Report::of(
            self.ns()
                .run(|| command.args(args).output().expect("run doctor")),
        )
    }

    fn command(&self, program: PathBuf) -> Command {
        let mut command = Command::new(program);
        command.args(["doctor", "--json", "--manifests"]);
        command.arg(self.lab.manifests());
        command.args(["--pin-dir", self.bpffs.dir()]);
        command
    }

    /// What a finding says mends it, in a shell of root.
    #[track_caller]
    fn mend(&self, finding: &Value) {
        let command = finding["command"].as_str();
        let command = command.unwrap_or_else(|| panic!("no command in {finding:#}"));
        let dir = binary()
            .parent()
            .expect("a directory")
            .display()
            .to_string();
        let path = format!("{dir}:/usr/sbin:/usr/bin:/sbin:/bin");
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).env("PATH", path);
        let output = self.ns().run(|| shell.output().expect("run a shell"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {said}");
    }
}

impl Report {
    #[track_caller]
    fn of(output: Output) -> Self {
        let json = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        let code = output.status.code();
        Self { json, code }
    }

    /// What a check has found.
    #[track_caller]
    fn findings(&self, check: &str) -> &[Value] {
        let mut checks = self.json["checks"].as_array().expect("checks").iter();
        let checked = checks.find(|checked| checked["name"] == check);
        let checked = checked.unwrap_or_else(|| panic!("no check {check} in {:#}", self.json));
        checked["findings"].as_array().expect("findings")
    }

    /// The finding of a check that is of this level.
    #[track_caller]
    fn found(&self, check: &str, level: &str) -> &Value {
        let mut findings = self.findings(check).iter();
        let found = findings.find(|finding| finding["level"] == level);
        found.unwrap_or_else(|| panic!("{check} has no {level}: {:#?}", self.findings(check)))
    }

    #[track_caller]
    fn assert_ok(&self, check: &str) {
        let is_ok = |finding: &Value| finding["level"] == "ok";
        let findings = self.findings(check);
        assert!(findings.iter().all(is_ok), "{check}: {findings:#?}");
    }

    /// How many findings there are of a level, as the report counts them.
    fn count(&self, levels: &str) -> u64 {
        self.json[levels].as_u64().expect("a number")
    }
}

/// The text of a finding.
#[track_caller]
fn what(finding: &Value) -> &str {
    finding["what"].as_str().expect("a text")
}

#[test]
fn namespace_that_lacks_nothing_gets_no_warning_and_exit_0() {
    let patient = Patient::new();
    let report = patient.examine();
    assert_eq!(report.count("errors"), 0, "{:#}", report.json);
    assert_eq!(report.count("warnings"), 0, "{:#}", report.json);
    assert_eq!(report.code, Some(0));
    for check in [
        "programs",
        "jit",
        "pins",
        "source-ports",
        "vips",
        "routes",
        "mtu",
    ] {
        report.assert_ok(check);
    }
}

type Spoil = fn(&Patient);

#[rstest]
#[case::strict_rp_filter("rp-filter", "warning", &["--claim-vips"], |patient: &Patient| {
    patient.ns().sysctl("ipv4/conf/client/rp_filter", "1");
})]
#[case::overlapping_ports("source-ports", "warning", &["--claim-vips"], |patient: &Patient| {
    patient.ns().sysctl("ipv4/ip_local_port_range", "20000 60999");
    patient.ns().sysctl("ipv4/ip_local_reserved_ports", "25000-25010");
})]
#[case::overlapping_ports_of_tc("source-ports", "error", &["--datapath", "tc"], |patient: &Patient| {
    patient.ns().sysctl("ipv4/ip_local_port_range", "1024 65535");
})]
#[case::missing_vip("vips", "warning", &[], |_: &Patient| {})]
#[case::no_ipv6_for_a_vip("vips", "error", &["--claim-vips"], |patient: &Patient| {
    patient.ns().sysctl("ipv6/conf/lo/disable_ipv6", "1");
})]
#[case::short_backlog("backlog", "warning", &[], |patient: &Patient| {
    patient.ns().sysctl("core/somaxconn", "128");
})]
#[case::no_sack("tcp-options", "warning", &[], |patient: &Patient| {
    patient.ns().sysctl("ipv4/tcp_sack", "0");
})]
#[case::no_window_scaling("tcp-options", "warning", &[], |patient: &Patient| {
    patient.ns().sysctl("ipv4/tcp_window_scaling", "0");
})]
#[case::loopback_down("interfaces", "error", &[], |patient: &Patient| {
    patient.ns().batch("link set lo down\n");
})]
#[case::narrow_endpoint("mtu", "warning", &[], |patient: &Patient| {
    patient.ns().batch("link set backend0 mtu 1400\n");
})]
#[case::narrow_route("mtu", "warning", &[], |patient: &Patient| {
    patient.ns().batch("route add 192.168.20.2/32 dev backend0 mtu 1300\n");
})]
fn command_of_the_finding_mends_it(
    #[case] check: &str,
    #[case] level: &str,
    #[case] args: &[&str],
    #[case] spoil: Spoil,
) {
    let patient = Patient::new();
    spoil(&patient);
    let report = patient.examine_with(args);
    let is_error = level == "error";
    let found = report.found(check, level);
    assert!(found["costs"].is_string(), "{found:#}");
    assert_eq!(report.code, Some(i32::from(is_error)), "{:#}", report.json);
    patient.mend(found);
    patient.examine_with(args).assert_ok(check);
}

#[test]
fn pin_dir_that_is_no_bpf_file_system_is_told_and_mounted_by_the_command() {
    let patient = Patient::new();
    let dir = patient.lab.dir().join("pins");
    let dir = dir.to_str().expect("a path of the lab");
    let mut command = Command::new(binary());
    command.args(["doctor", "--json", "--datapath", "tc", "--pin-dir", dir]);
    let mut look = || Report::of(patient.ns().run(|| command.output().expect("run doctor")));
    let report = look();
    let found = report.found("pins", "error");
    assert_eq!(report.code, Some(1));
    let mounted = format!("mkdir -p {dir} && mount -t bpf bpf {dir}");
    assert_eq!(found["command"], mounted);
    let _mounted = Mounted(dir);
    patient.mend(found);
    look().assert_ok("pins");
}

/// Unmounted on drop.
struct Mounted<'d>(&'d str);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        let _ = umount.arg("-l").arg(self.0).status();
    }
}

#[test]
fn endpoint_without_a_route_is_an_error_and_one_on_the_router_a_note() {
    let patient = Patient::new();
    let away = "203.0.113.9:8443".parse().expect("an address");
    let here = "192.168.20.1:8443".parse().expect("an address");
    Site::new()
        .route(HOST, "one")
        .service("one", [away, here])
        .write_to(&patient.lab.manifests());
    patient.ns().batch("route del default\n");
    let report = patient.examine();
    let found = what(report.found("routes", "error"));
    assert!(
        found.contains("203.0.113.9") && !found.contains("192.168.20.1"),
        "{found}"
    );
    assert_eq!(report.code, Some(1));
    let found = what(report.found("routes", "note"));
    assert!(found.contains("192.168.20.1"), "{found}");
    patient
        .ns()
        .batch("route add 203.0.113.9/32 via 192.168.20.2\n");
    let report = patient.examine();
    assert_eq!(report.code, Some(0), "{:#}", report.json);

    // The other end of the link is down.
    patient
        .lab
        .net
        .far(Leg::Backend(0))
        .batch("link set eth0 down\n");
    let report = patient.examine();
    let found = what(report.found("routes", "warning"));
    assert!(found.starts_with("backend0 has no carrier"), "{found}");
}

#[test]
fn source_address_of_nobody_is_an_error_also_where_it_could_be_bound() {
    let patient = Patient::new();
    let args = ["--datapath", "tc", "--tc-source", "192.168.20.77"];
    let report = patient.examine_with(&args);
    report.found("source-addresses", "error");
    patient.ns().sysctl("ipv4/ip_nonlocal_bind", "1");
    let report = patient.examine_with(&args);
    report.found("source-addresses", "error");
    patient
        .ns()
        .batch("addr add 192.168.20.77/24 dev backend0\n");
    patient.examine_with(&args).assert_ok("source-addresses");
}

#[test]
fn ipsec_policies_are_found_while_they_are_there() {
    let patient = Patient::new();
    patient.examine().assert_ok("ipsec");
    let policy = "src 0.0.0.0/0 dst 192.168.20.0/24 dir out";
    let tunnel = "tmpl src 192.168.20.1 dst 192.168.20.2 proto esp mode tunnel";
    let ns = patient.ns();
    ns.batch(&format!("xfrm policy add {policy} {tunnel}\n"));
    let report = patient.examine();
    assert!(what(report.found("ipsec", "note")).ends_with(": 1"));
    ns.batch(&format!("xfrm policy delete {policy}\n"));
    patient.examine().assert_ok("ipsec");
}

#[test]
fn manifests_that_are_not_there_are_an_error_and_a_wrong_flag_is_exit_2() {
    let patient = Patient::new();
    fs::remove_dir_all(patient.lab.manifests()).expect("remove the manifests");
    let report = patient.examine();
    report.found("manifests", "error");
    assert_eq!(report.code, Some(1));
    let mut command = Command::new(binary());
    command.args(["doctor", "--tc-ports", "5-1"]);
    let output = command.output().expect("run doctor");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn text_has_what_it_costs_and_how_to_mend_it_below_the_finding() {
    let patient = Patient::new();
    let text = patient.ns().output(
        binary().to_str().expect("a path"),
        &[
            "doctor",
            "--pin-dir",
            "none",
            "--manifests",
            patient.lab.manifests().to_str().expect("a path"),
        ],
    );
    let mut lines = text
        .lines()
        .skip_while(|line| !line.starts_with("warning  vips "));
    let found = lines.next().unwrap_or_else(|| panic!("no warning: {text}"));
    assert!(found.contains("1.2.3.4"), "{found}");
    assert!(
        lines
            .next()
            .expect("a line")
            .trim_start()
            .starts_with("costs: "),
        "{text}"
    );
    let mend = lines.next().expect("a line").trim_start();
    assert!(
        mend.starts_with("mend:  ip addr add 1.2.3.4/32 dev lo"),
        "{mend}"
    );
}

/// Everything that it looks at is as it was.
#[test]
fn nothing_of_the_host_is_changed() {
    let patient = Patient::new();
    patient
        .ns()
        .sysctl("ipv4/ip_local_port_range", "1024 65535");
    let state = || {
        let ns = patient.ns();
        let mut texts: Vec<_> = [
            &["-d", "link"][..],
            &["addr"],
            &["route", "show", "table", "all"],
            &["-6", "route", "show", "table", "all"],
        ]
        .map(|args| ns.ip_output(args))
        .into();
        texts.push(ns.output("tc", &["qdisc"]));
        texts.push(ns.output("sysctl", &["-a", "--pattern", "^net.ipv4.(ip_local|conf)"]));
        let pinned = fs::read_dir(patient.bpffs.dir()).expect("the file system");
        let names = pinned.map(|entry| format!("{:?}", entry.expect("an entry").file_name()));
        texts.extend(names);
        texts
    };
    // Addresses of a new link may still settle.
    patient.examine();
    let before = state();
    for datapath in ["auto", "tc", "sockmap", "userspace"] {
        let args = ["--datapath", datapath, "--claim-vips", "--reserve-ports"];
        patient.examine_with(&args);
    }
    assert_eq!(state(), before);
}
