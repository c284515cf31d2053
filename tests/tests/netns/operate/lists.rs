//! What is served, what is wrong, and changing what is read and logged.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use rstest::rstest;
use serde_json::Value;
use sni_router_tests::daemon::{Datapath, Router, binary};
use sni_router_tests::rig::{HOST, Lab, Rig};
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until};

use super::{connections, operate, text};

#[test]
fn lists_show_what_is_served_and_what_is_wrong() {
    let lab = Lab::new(1);
    Rig::site(&lab)
        .route("bad..name", "one")
        .write_to(&lab.manifests());
    let router = lab.start(Datapath::Userspace, &[]);
    let routes = text(&operate(&lab, &["routes"]));
    assert!(
        routes.contains(HOST) && routes.contains("default/one:"),
        "{routes}"
    );
    let output = operate(&lab, &["problems"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("spec.rules[1].host"),
        "{}",
        text(&output)
    );
    let config: Value = serde_json::from_str(&router.get("/api/v1/config").body).expect("JSON");
    assert_eq!(config["errors"], 1, "{config}");
    assert!(
        config["source"]
            .as_str()
            .is_some_and(|it| it.contains("manifests")),
        "{config}"
    );

    let generation = router.generation();
    Rig::site(&lab).write_to(&lab.manifests());
    assert!(operate(&lab, &["reload"]).status.success());
    router.wait_for_generation_after(generation);
    // The first of them may be of half of the files.
    until("no problem is left", SOON, || {
        let output = operate(&lab, &["problems"]);
        output.status.success() && text(&output).is_empty()
    });
}

#[test]
fn reload_fails_while_the_manifests_are_away_and_the_last_ones_are_served() {
    let rig = Rig::start(Datapath::Userspace, &[]);
    let unread = || {
        let config = rig.router.get("/api/v1/config").body;
        serde_json::from_str::<Value>(&config).expect("JSON")["unread"].clone()
    };
    assert_eq!(unread(), Value::Null);
    let away = rig.lab.manifests().with_extension("away");
    fs::rename(rig.lab.manifests(), &away).expect("move the manifests away");
    let output = operate(&rig.lab, &["reload"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(unread().is_string());
    assert!(text(&output).contains("create it"), "{}", text(&output));
    assert_eq!(rig.router.metric("sni_router_manifests_unread", &[]), 1.0);
    rig.open();

    fs::rename(&away, rig.lab.manifests()).expect("move the manifests back");
    assert!(operate(&rig.lab, &["reload"]).status.success());
    assert_eq!(unread(), Value::Null);
}

#[test]
fn log_level_is_changed_while_the_router_runs() {
    let rig = Rig::start(Datapath::Userspace, &[]);
    assert!(
        operate(&rig.lab, &["log-level", "info,access=off"])
            .status
            .success()
    );
    let silent = rig.open().address;
    until("it is over", SOON, || connections(&rig.lab, &[]).is_empty());
    assert!(operate(&rig.lab, &["log-level", "info"]).status.success());
    let logged = rig.open().address;
    rig.access(logged);
    let said = rig.router.log().text();
    assert!(
        !said.contains(&format!("\"client\":\"{silent}\"")),
        "{said}"
    );
    let output = operate(&rig.lab, &["log-level", "access=loud"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}

#[test]
fn kernel_shows_programs_where_they_are_attached_and_how_often_they_ran() {
    // As kernel.bpf_stats_enabled, but only for as long as this is open.
    let _counting = enable_stats(Stats::RunTime).expect("count runs");
    let rig = Rig::start(Datapath::Tc, &[]);
    rig.open().exchange();
    let kernel = kernel(&rig.router);
    assert_eq!(kernel["datapath"], "tc", "{kernel}");
    assert!(kernel["counters"]["lookup_steered"].is_u64(), "{kernel}");
    let lookup = program(&kernel, "snir_lookup");
    assert_eq!(lookup["kind"], "sk_lookup");
    assert_eq!(lookup["attached"][0]["by"], "netns", "{lookup}");
    let classifier = program(&kernel, "snir_tc_ether");
    assert_eq!(classifier["kind"], "sched_cls");
    assert!(classifier["runs"].as_u64() > Some(0), "{classifier}");
    assert!(classifier["run_seconds"].as_f64() > Some(0.0));
    let id = classifier["id"].as_u64().expect("a number");
    let mut loaded = loaded_programs().filter_map(Result::ok);
    let known = loaded.find(|known| u64::from(known.id()) == id);
    let known = known.expect("the kernel knows it by that number");
    assert_eq!(known.name_as_str(), Some("snir_tc_ether"));

    let interfaces = kernel["interfaces"].as_array().expect("a list");
    assert!(interfaces.len() >= 2, "{kernel}");
    for interface in interfaces {
        assert_eq!(interface["program"], "snir_tc_ether", "{interface}");
        let (to, by) = (&interface["name"], ["tcx", "clsact"]);
        let attached = classifier["attached"].as_array().expect("a list");
        let place = attached.iter().find(|place| place["to"] == *to);
        let place = place.unwrap_or_else(|| panic!("{to}: {classifier}"));
        assert!(by.iter().any(|by| place["by"] == *by), "{place}");
    }
    let shown = text(&operate(&rig.lab, &["status"]));
    assert!(shown.contains("snir_tc_ether"), "{shown}");
}

#[test]
fn kernel_tells_of_every_map_how_full_it_is_where_entries_come_and_go() {
    let rig = Rig::start(Datapath::Tc, &[]);
    let talks = [(); 3].map(|()| {
        let talk = rig.open();
        talk.exchange();
        talk
    });
    let used = |name: &str| {
        let kernel = kernel(&rig.router);
        let maps = kernel["maps"].as_array().expect("a list");
        let map = maps.iter().find(|map| map["name"] == name);
        let map = map.unwrap_or_else(|| panic!("no {name}: {kernel}"));
        assert!(map["capacity"].as_u64() > Some(0), "{map}");
        assert_eq!(map["forgets"], name == "SNI_SEEN", "{map}");
        map["used"].as_u64()
    };
    assert_eq!(used("SNI_FLOWS"), Some(2 * talks.len() as u64));
    // That of a client that says nothing stays.
    let _silent = rig.lab.connect(Family::V4);
    until(
        "handshakes of what was handed over are forgotten",
        SOON,
        || used("SNI_SEEN") == Some(1),
    );
    for whole in ["SNI_PORTS", "SNI_ENDED", "SNI_OPTIONS", "SNI_BUDGET"] {
        assert_eq!(used(whole), None, "{whole}");
    }
}

#[rstest]
#[case::userspace(Datapath::Userspace, ["not_tried", "not_tried", "works"])]
#[case::sockmap(Datapath::Sockmap, ["not_tried", "works", "works"])]
#[case::tc(Datapath::Tc, ["works", "not_tried", "works"])]
fn self_tests_of_the_datapaths_are_shown(#[case] datapath: Datapath, #[case] results: [&str; 3]) {
    let rig = Rig::start(datapath, &[]);
    let kernel = kernel(&rig.router);
    let tests = kernel["self_tests"].as_array().expect("a list");
    let names = ["tc", "sockmap", "userspace"];
    for ((test, name), result) in tests.iter().zip(names).zip(results) {
        assert_eq!(
            (&test["datapath"], &test["result"]),
            (&name.into(), &result.into())
        );
        assert_eq!(test["why"].is_null(), result == "works", "{test}");
    }
    let shown = text(&operate(&rig.lab, &["status"]));
    assert!(shown.contains("userspace                works"), "{shown}");
}

#[test]
fn self_test_says_why_tc_is_not_to_be_had() {
    let lab = Lab::new(1);
    Rig::site(&lab).write_to(&lab.manifests());
    let router = lab.start_with(
        &["--datapath", "auto", "--claim-vips"],
        &["bpf", "sys_admin"],
    );
    let kernel = kernel(&router);
    assert_eq!(kernel["self_tests"][0]["result"], "fails", "{kernel}");
    let why = kernel["self_tests"][0]["why"].as_str().expect("why");
    assert!(why.contains("CAP_BPF"), "{why}");
    assert_eq!(kernel["programs"], serde_json::json!([]));
}

fn kernel(router: &Router) -> Value {
    serde_json::from_str(&router.get("/api/v1/kernel").body).expect("JSON")
}

fn program<'k>(kernel: &'k Value, name: &str) -> &'k Value {
    let programs = kernel["programs"].as_array().expect("a list");
    let found = programs.iter().find(|it| it["name"] == name);
    found.unwrap_or_else(|| panic!("no {name}: {kernel}"))
}

#[test]
fn top_tells_rates_a_line_a_second() {
    let rig = Rig::start(Datapath::Tc, &[]);
    let mut command = Command::new(binary());
    command.args(["top", "--json", "--admin", &rig.lab.admin()]);
    let child = command.stdout(Stdio::piped()).spawn();
    let mut child = child.expect("run sni-router");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut rates = lines
        .map_while(Result::ok)
        .map(|line| serde_json::from_str::<Value>(&line).expect("JSON"));
    // The first one is of a second in which nothing happened.
    assert_eq!(rates.next().expect("a line")["opened"], 0.0);
    let _pair = rig.open();
    let opened = rates
        .take(20)
        .find(|line| line["opened"].as_f64() > Some(0.0));
    child.kill().expect("kill it");
    child.wait().expect("its end");
    let opened = opened.expect("a second with a new connection");
    assert_eq!(opened["carried"]["tc"], 1, "{opened}");
    let endpoint = &opened["endpoints"][0];
    assert_eq!(endpoint["address"], rig.lab.endpoint(0).to_string());

    let output = operate(&rig.lab, &["top"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output).contains("top needs a terminal"),
        "{}",
        text(&output)
    );
}
