//! What is served, what is wrong, and changing what is read and logged.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;
use sni_router_tests::daemon::{Datapath, binary};
use sni_router_tests::rig::{HOST, Lab, Rig};
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
    let output = operate(&lab, &["problems"]);
    assert_eq!(
        (output.status.code(), text(&output).as_str()),
        (Some(0), "")
    );
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
fn kernel_shows_the_interfaces_that_are_looked_at() {
    let rig = Rig::start(Datapath::Tc, &[]);
    let kernel: Value = serde_json::from_str(&rig.router.get("/api/v1/kernel").body).expect("JSON");
    assert_eq!(kernel["datapath"], "tc", "{kernel}");
    let interfaces = kernel["interfaces"].to_string();
    assert!(interfaces.contains("(snir_tc_ether)"), "{kernel}");
    assert!(kernel["counters"]["lookup_steered"].is_u64(), "{kernel}");
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
