//! Flows whose interface goes while they live: of a tunnel that is taken down, say, or made anew under another number.

use std::io::Write as _;

use rstest::rstest;
use sni_router_tests::daemon::{Datapath, Router};
use sni_router_tests::netns::Namespace;
use sni_router_tests::raw::{End, hello, read_to_end};
use sni_router_tests::rig::{HOST, Lab, Pair, Rig};
use sni_router_tests::topology::{Family, Leg};
use sni_router_tests::wait::{SOON, until};

fn make(far: &Namespace, router: &Namespace, device: &str) {
    far.batch(&format!(
        "link add eth0 type veth peer name {device} netns {}\n",
        router.name()
    ));
}

#[track_caller]
fn assert_record(router: &Router, pair: &Pair, reason: &str) {
    let access = router.log().access_of(pair.address, SOON);
    assert_eq!(
        (&*access.datapath, &*access.reason),
        ("tc", reason),
        "{access:?}"
    );
}

#[test]
fn flow_whose_client_loses_its_link_is_ended_at_both_sides() {
    let rig = Rig::start(Datapath::Tc, &[]);
    let pair = rig.open();
    rig.lab.net.unlink(Leg::Client);
    assert_eq!(read_to_end(&pair.server, SOON), (Vec::new(), End::Reset));
    assert_record(&rig.router, &pair, "client_reset");
    rig.lab.net.link_anew(Leg::Client, make);
    // Nobody could tell it before it has a link again and something to say.
    until("the client hears of it", SOON, || {
        (&pair.client).write_all(b"anybody there?").is_err()
    });
    // And it can connect again, over the new link.
    rig.open().exchange();
}

#[test]
fn flow_whose_endpoint_loses_its_link_is_ended_and_others_go_on() {
    const OTHER: &str = "two.example.com";
    let lab = Lab::new(2);
    let listeners = [lab.listen(0), lab.listen(1)];
    Rig::site(&lab)
        .route(OTHER, "two")
        .service("two", [lab.endpoint(1)])
        .write_to(&lab.manifests());
    let router = lab.start(Datapath::Tc, &[]);
    let open =
        |host, listener| Pair::greet(lab.connect(Family::V4), &hello(host), listener).answered();
    let (pair, other) = (open(HOST, &listeners[0]), open(OTHER, &listeners[1]));
    lab.net.unlink(Leg::Backend(0));
    assert_eq!(read_to_end(&pair.client, SOON), (Vec::new(), End::Reset));
    assert_record(&router, &pair, "endpoint_reset");
    other.exchange();
}

#[rstest]
#[case::of_the_client(Leg::Client)]
#[case::of_the_endpoint(Leg::Backend(0))]
fn flow_whose_link_is_made_anew_goes_on(#[case] leg: Leg) {
    let rig = Rig::start(Datapath::Tc, &[]);
    let pair = rig.open();
    rig.lab.net.relink(leg, make);
    // At once: what comes before the program is on the new link meets the host, which knows no such connection.
    pair.exchange();
    let address = pair.address;
    drop(pair);
    assert_eq!(rig.access(address).reason, "done");
}
