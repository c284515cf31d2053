//! Draining, and what a client would get.

use rstest::rstest;
use serde_json::Value;
use sni_router_tests::access::Access;
use sni_router_tests::daemon::Datapath;
use sni_router_tests::rig::{HOST, Pair, Rig};
use sni_router_tests::topology::CLIENT4;
use sni_router_tests::wait::SOON;

use super::{Two, assert_refused, operate, text};

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::tc(Datapath::Tc)]
fn drained_endpoint_keeps_its_connections_and_gets_no_others(#[case] datapath: Datapath) {
    let two = Two::start(datapath);
    let pairs = [two.open(), two.open()];
    let [first, second] = [0, 1].map(|index| two.lab.endpoint(index).to_string());
    let output = operate(&two.lab, &["drain", "--endpoint", &first]);
    assert_eq!(text(&output), "draining; 1 connections go on\n");
    for _ in 0..4 {
        let pair = two.open();
        assert_eq!(two.endpoint_of(&pair), second);
    }
    pairs.iter().for_each(Pair::exchange);
    let listed = text(&operate(&two.lab, &["backends"]));
    let line = listed.lines().find(|line| line.contains(&first));
    assert!(
        line.is_some_and(|line| line.contains("draining")),
        "{listed}"
    );

    operate(&two.lab, &["undrain", "--endpoint", &first]);
    let met: Vec<_> = (0..4).map(|_| two.endpoint_of(&two.open())).collect();
    assert!(met.contains(&first), "{met:?}");
    let output = operate(&two.lab, &["drain", "--endpoint", "10.99.99.99:1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("no route leads to an endpoint 10.99.99.99:1"));
}

#[test]
fn drained_listener_resets_new_connections_and_keeps_the_others() {
    let rig = Rig::start(Datapath::Tc, &[]);
    let pair = rig.open();
    let listed = text(&operate(&rig.lab, &["listeners"]));
    let name = listed
        .lines()
        .nth(1)
        .and_then(|line| line.split(' ').next());
    let name = name.expect("a Listener").to_owned();
    let output = operate(&rig.lab, &["drain", "--listener", &name]);
    assert_eq!(text(&output), "draining; 1 connections go on\n");
    assert_refused(&rig.lab);
    let is_draining = |access: &Access| access.reason == "listener_draining";
    rig.router.log().wait_for_access(SOON, is_draining);
    pair.exchange();
    let output = operate(&rig.lab, &["undrain", "--listener", &name]);
    assert_eq!(
        text(&output),
        "gets new connections again; 1 connections go on\n"
    );
    rig.open().exchange();
}

#[test]
fn explain_names_the_endpoint_that_the_next_connection_gets() {
    let two = Two::start(Datapath::Userspace);
    let client = CLIENT4.to_string();
    for _ in 0..5 {
        let args = ["explain", "--host", HOST, "--client", &client, "--json"];
        let output = operate(&two.lab, &args);
        let explained: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let expected = explained[0]["endpoint"]
            .as_str()
            .expect("an endpoint")
            .to_owned();
        assert_eq!(two.endpoint_of(&two.open()), expected, "{explained}");
    }
    let output = operate(&two.lab, &["explain", "--host", HOST, "--client", &client]);
    let said = text(&output);
    assert!(
        said.contains("by least connections, it has the fewest connections"),
        "{said}"
    );
    let output = operate(&two.lab, &["explain", "--host", "other.example.org"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let output = operate(&two.lab, &["explain", "--host", "not a name"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}
