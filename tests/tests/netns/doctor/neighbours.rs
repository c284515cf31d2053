//! Routers and programs of others beside it.

use std::net::TcpStream;

use aya::EbpfLoader;
use aya::programs::{LinkOrder, Xdp, XdpMode};
use serde_json::json;
use sni_router_tests::daemon::Datapath;
use sni_router_tests::rig::Rig;
use sni_router_tests::site::PORT;
use sni_router_tests::topology::VIP4;
use sni_router_tests::wait::{SOON, until};

use super::super::foreign::{add_filter, attach_foreign, object_of};
use super::{Patient, what};

/// What it promises of the setting is what the router then does.
#[test]
fn router_starts_with_tc_once_the_ports_are_mended() {
    let patient = Patient::new();
    patient
        .ns()
        .sysctl("ipv4/ip_local_port_range", "1024 65535");
    let report = patient.examine();
    patient.mend(report.found("source-ports", "error"));
    assert_eq!(patient.examine().code, Some(0));
    let mut router = patient.lab.start(Datapath::Tc, &[]);
    router.terminate(SOON);
}

#[test]
fn program_that_listens_on_the_vip_is_named_until_it_stops() {
    let patient = Patient::new();
    patient.ns().batch(&format!("addr add {VIP4}/32 dev lo\n"));
    let listener = patient.ns().listen((VIP4, PORT).into());
    let who = format!("(process {})", std::process::id());
    let report = patient.examine();
    let found = what(report.found("vip-ports", "warning")).to_owned();
    assert!(
        found.contains(&who) && found.contains("1.2.3.4:443"),
        "{found}"
    );
    assert_eq!(report.code, Some(0));

    // Without the kernel program the router has to bind it itself.
    let userspace = ["--datapath", "userspace", "--claim-vips"];
    let report = patient.examine_with(&userspace);
    assert!(what(report.found("vip-ports", "error")).contains(&who));
    assert_eq!(report.code, Some(1));
    let router = patient.lab.start(Datapath::Userspace, &[]);
    router.log().wait_for_line("cannot listen", SOON);
    let unbound = || router.status()["listeners"][0]["unbound"].clone();
    assert_eq!(unbound(), json!(["1.2.3.4:443"]));
    drop(listener);
    // Nobody has to tell it.
    let vip = (VIP4, PORT).into();
    let connect = || TcpStream::connect_timeout(&vip, SOON);
    until("it listens", SOON, || patient.ns().run(connect).is_ok());
    until("it says so", SOON, || unbound() == json!([]));
    drop(router);

    patient.examine_with(&userspace).assert_ok("vip-ports");
    patient.examine().assert_ok("vip-ports");
}

#[test]
fn router_that_runs_is_no_stranger_to_its_ports_and_pins() {
    let patient = Patient::new();
    let pins = ["--pin-dir", patient.bpffs.dir()];
    let router = patient.lab.start(Datapath::Tc, &pins);
    let report = patient.examine();
    assert_eq!(
        report.count("warnings") + report.count("errors"),
        0,
        "{:#}",
        report.json
    );
    let found = what(report.found("pins", "ok"));
    assert!(
        found.contains(&format!("(process {})", router.pid())),
        "{found}"
    );
    report.assert_ok("other-programs");
    drop(router);

    let _router = patient.lab.start(Datapath::Userspace, &[]);
    patient
        .examine_with(&["--datapath", "userspace"])
        .assert_ok("vip-ports");
}

#[test]
fn connections_of_a_killed_router_are_told_and_ended_by_the_command() {
    let patient = Patient::new();
    let endpoint = patient.lab.listen(0);
    let pins = ["--pin-dir", patient.bpffs.dir()];
    let router = patient.lab.start(Datapath::Tc, &pins);
    let Patient { lab, bpffs } = patient;
    let mut rig = Rig::of(router, endpoint, lab, Datapath::Tc);
    let before = rig.router.descriptors();
    let running = rig.open();
    until("the router has let go of its sockets", SOON, || {
        rig.router.descriptors() <= before
    });
    rig.router.kill();
    running.exchange();
    let Rig { lab, router, .. } = rig;
    let patient = Patient { lab, bpffs };
    let report = patient.examine();
    let found = report.found("pins", "note");
    assert!(
        what(found).contains(&format!("(process {})", router.pid())),
        "{found:#}"
    );
    patient.mend(found);
    patient.examine().assert_ok("pins");
    assert!(patient.bpffs.pinned().is_empty());
}

#[test]
fn tc_program_in_front_is_a_warning_until_the_router_is_started_again() {
    let patient = Patient::new();
    let mut router = patient.lab.start(Datapath::Tc, &[]);
    let foreign = attach_foreign(patient.ns(), LinkOrder::first());
    let report = patient.examine();
    let found = report.found("other-programs", "warning");
    assert!(what(found).contains("on client: mark ("), "{found:#}");
    assert!(found["mend"].as_str().expect("words").contains("restart"));
    router.terminate(SOON);

    let router = patient.lab.start(Datapath::Tc, &[]);
    let report = patient.examine();
    let found = report.found("other-programs", "note");
    assert!(what(found).contains("mark ("), "{found:#}");
    assert_eq!(report.count("warnings"), 0, "{:#}", report.json);
    drop((foreign, router));
    until("the program has gone", SOON, || {
        patient.examine().findings("other-programs")[0]["level"] == "ok"
    });
}

#[test]
fn xdp_program_and_filter_of_others_are_notes_while_they_are_there() {
    let patient = Patient::new();
    let code = [
        // r0 = XDP_PASS
        [0xb7, 0, 0, 0, 2, 0, 0, 0],
        // exit
        [0x95, 0, 0, 0, 0, 0, 0, 0],
    ];
    let object = object_of("xdp", "letpass", &code);
    let ebpf = patient.ns().run(|| {
        let mut ebpf = EbpfLoader::new().load(&object).expect("load");
        let program = ebpf.program_mut("letpass").expect("it is there");
        let program: &mut Xdp = program.try_into().expect("an XDP program");
        program.load().expect("load");
        program.attach("client", XdpMode::Skb).expect("attach");
        ebpf
    });
    let report = patient.examine();
    let found = what(report.found("other-programs", "note"));
    assert!(found.starts_with("XDP on client: letpass ("), "{found}");
    drop(ebpf);
    until("the program has gone", SOON, || {
        patient.examine().findings("other-programs")[0]["level"] == "ok"
    });

    add_filter(patient.ns());
    let report = patient.examine();
    let found = what(report.found("other-programs", "note"));
    assert_eq!(found, "TC filter u32, pref 1, on client");
    patient
        .ns()
        .output("tc", &["qdisc", "del", "dev", "client", "clsact"]);
    patient.examine().assert_ok("other-programs");
}
