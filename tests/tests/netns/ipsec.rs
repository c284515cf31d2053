//! IPsec policies: packets of flows do not meet them, so connections that one covers are none.

use rstest::rstest;
use sni_router_tests::access::Access;
use sni_router_tests::daemon::Datapath;
use sni_router_tests::rig::{Lab, Rig};
use sni_router_tests::wait::{SOON, until};

/// A connection with a message each way, and its record.
#[track_caller]
fn serve_one(rig: &Rig) -> Access {
    let pair = rig.open();
    pair.exchange();
    let address = pair.address;
    drop(pair);
    rig.router.log().access_of(address, SOON)
}

#[track_caller]
fn wait_declined(rig: &Rig) {
    // The router hears of a policy a moment later.
    until("connections are declined", SOON, || {
        serve_one(rig).datapath == "userspace"
    });
    let access = serve_one(rig);
    assert_eq!(access.declined, "ipsec_policy", "{access:?}");
    assert_eq!(access.reason, "done", "{access:?}");
}

#[track_caller]
fn wait_carried(rig: &Rig) {
    until("connections are carried by tc", SOON, || {
        serve_one(rig).datapath == "tc"
    });
}

fn policy(rig: &Rig, verb: &str, selector: &str, rest: &str) {
    let ns = &rig.lab.net.router;
    ns.batch(&format!("xfrm policy {verb} {selector} {rest}\n"));
}

/// A template that is optional, so that packets pass though nobody has a key.
const OPTIONAL: &str = "tmpl proto esp mode transport level use";

#[rstest]
#[case::to_endpoints("src 192.168.20.1 dst 192.168.20.0/24 proto tcp dport 8443 dir out")]
#[case::from_endpoints("src 192.168.20.0/24 dst 0.0.0.0/0 dir in")]
#[case::to_clients("src 1.2.3.4 dst 192.168.10.2 dir out")]
#[case::from_clients("src 192.168.10.0/24 dst 1.2.3.4 dir in")]
fn connections_that_a_policy_covers_are_declined_while_it_is_there(#[case] selector: &str) {
    let rig = Rig::start(Datapath::Tc, &[]);
    assert_eq!(serve_one(&rig).datapath, "tc");
    policy(&rig, "add", selector, OPTIONAL);
    wait_declined(&rig);
    let labels = [("reason", "ipsec_policy")];
    assert!(rig.router.metric(DECLINED, &labels) >= 2.0);
    policy(&rig, "delete", selector, "");
    wait_carried(&rig);
}

/// Also when it is not its own that the router finds at its start.
#[test]
fn policy_that_is_there_at_the_start_counts() {
    let lab = Lab::new(1);
    let listener = lab.listen(0);
    Rig::site(&lab).write_to(&lab.manifests());
    let selector = "src 0.0.0.0/0 dst 192.168.20.2 dir out";
    lab.net
        .router
        .batch(&format!("xfrm policy add {selector} {OPTIONAL}\n"));
    let router = lab.start(Datapath::Tc, &[]);
    let rig = Rig::of(router, listener, lab, Datapath::Tc);
    let access = serve_one(&rig);
    assert_eq!(access.declined, "ipsec_policy", "{access:?}");
    // All at once, as daemons for keys do at their start.
    rig.lab.net.router.batch("xfrm policy flush\n");
    wait_carried(&rig);
}

/// For others' packets, those that are marked, those that are forwarded, and those of the other family.
#[test]
fn policies_that_cover_no_flow_change_nothing() {
    let rig = Rig::start(Datapath::Tc, &[]);
    let others = [
        "src 0.0.0.0/0 dst 192.168.99.0/24 dir out",
        "src 0.0.0.0/0 dst 192.168.20.0/24 proto udp dir out",
        "src 0.0.0.0/0 dst 192.168.20.0/24 proto tcp dport 8444 dir out",
        "src 0.0.0.0/0 dst 0.0.0.0/0 dir fwd",
        "src 0.0.0.0/0 dst 0.0.0.0/0 dir out mark 3 mask 3",
        "src ::/0 dst ::/0 dir out",
    ];
    for selector in others {
        policy(&rig, "add", selector, OPTIONAL);
    }
    // Told of one after all the others, the router knows them all.
    let covering = "src 192.168.20.1 dst 192.168.20.2 dir out";
    policy(&rig, "add", covering, OPTIONAL);
    wait_declined(&rig);
    policy(&rig, "delete", covering, "");
    wait_carried(&rig);
}

/// The flow was handed over before anybody wanted it encrypted.
#[test]
fn flows_that_were_there_before_a_policy_go_on() {
    let rig = Rig::start(Datapath::Tc, &[]);
    let pair = rig.open();
    policy(
        &rig,
        "add",
        "src 192.168.20.1 dst 192.168.20.0/24 dir out",
        OPTIONAL,
    );
    wait_declined(&rig);
    pair.exchange();
    let address = pair.address;
    drop(pair);
    let access = rig.router.log().access_of(address, SOON);
    assert_eq!(access.datapath, "tc", "{access:?}");
}

const DECLINED: &str = "sni_router_datapath_declines_total";
