//! What it may look at, as whom.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use sni_router_tests::daemon::{Datapath, binary};

use super::super::deployment::without;
use super::{Patient, Report};

/// A user finds out what he may, and hears how to find out the rest.
#[test]
fn user_without_rights_hears_what_is_unknown_and_how_to_get_it() {
    let patient = Patient::new();
    // Where the tests were built, others may not look.
    let program = patient.lab.dir().join("sni-router");
    fs::copy(binary(), &program).expect("copy the router");
    let readable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&program, readable).expect("let everybody run it");
    fs::set_permissions(patient.bpffs.dir(), fs::Permissions::from_mode(0o700))
        .expect("close the file system, as systemd mounts it");
    let ids = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let inner = patient.command(program);
    let mut command = Command::new("setpriv");
    command
        .args(ids)
        .arg(inner.get_program())
        .args(inner.get_args());
    let output = patient.ns().run(|| command.output().expect("run setpriv"));
    let report = Report::of(output);
    assert_eq!(report.code, Some(0), "{:#}", report.json);
    for check in ["capabilities", "programs", "other-programs", "pins"] {
        let found = report.found(check, "unknown");
        assert!(
            found["mend"].as_str().expect("words").contains("as root"),
            "{found:#}"
        );
    }
    report.assert_ok("rp-filter");
    report.assert_ok("routes");
    report.found("vips", "warning");
}

/// As in a pod, beside the pod's router.
#[test]
fn capabilities_of_the_deployment_are_enough_to_find_nothing_wrong() {
    let patient = Patient::new();
    let pins = ["--pin-dir", patient.bpffs.dir()];
    let _router = patient.lab.start(Datapath::Tc, &pins);
    let dropped: Vec<_> = without().iter().map(|name| format!("-{name}")).collect();
    let inner = patient.command(binary());
    let mut command = Command::new("setpriv");
    command.arg("--bounding-set").arg(dropped.join(","));
    command.arg(inner.get_program()).args(inner.get_args());
    command.args(["--datapath", "tc", "--claim-vips"]);
    let output = patient.ns().run(|| command.output().expect("run setpriv"));
    let report = Report::of(output);
    let bad = report.count("errors") + report.count("warnings");
    assert_eq!(bad, 0, "{:#}", report.json);
    for check in [
        "capabilities",
        "programs",
        "jit",
        "pins",
        "ipsec",
        "vip-ports",
    ] {
        report.assert_ok(check);
    }
    // Whose program is on the interfaces is more than a router has to know.
    report.found("other-programs", "unknown");
}
