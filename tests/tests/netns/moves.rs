//! Flows whose peers are reached by another link from some moment on.

use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use rstest::rstest;
use sni_router_tests::bulk::{Pattern, receive, send};
use sni_router_tests::daemon::Datapath;
use sni_router_tests::raw::End;
use sni_router_tests::rig::{Lab, Pair, Rig};
use sni_router_tests::topology::{Family, Leg};
use sni_router_tests::wait::{SOON, until};

use crate::asymmetric::{TwoLinks, address, lose, send_by_back};

/// Long enough for the router to let go of its sockets, and to look at flows twice after its start.
const SETTLED: Duration = Duration::from_secs(8);

/// A connection that was there before is there afterwards, and so are new ones, all of them without sockets.
#[track_caller]
fn assert_follows(net: &TwoLinks, pair: Pair, family: Family) {
    pair.exchange();
    let client = address(Leg::Client, family, 2);
    until("new connections are carried by tc", SOON, || {
        let new = net.open(client);
        new.exchange();
        let at = new.address;
        drop(new);
        net.router.log().access_of(at, SOON).datapath == "tc"
    });
    pair.exchange();
    let at = pair.address;
    drop(pair);
    let access = net.router.log().access_of(at, SOON);
    assert_eq!(
        (&*access.datapath, &*access.reason),
        ("tc", "done"),
        "{access:?}"
    );
}

fn start(leg: Leg, family: Family, set_up: impl FnOnce(&Lab)) -> (TwoLinks, Pair) {
    let net = TwoLinks::start(leg, family, set_up);
    let pair = net.open(address(Leg::Client, family, 2));
    thread::sleep(SETTLED);
    (net, pair)
}

/// As when a router on the path has withdrawn itself.
#[rstest]
#[case::of_clients(Leg::Client)]
#[case::of_endpoints(Leg::Backend(0))]
fn flow_follows_its_route_to_another_link(
    #[case] leg: Leg,
    #[values(Family::V4, Family::V6)] family: Family,
) {
    let (net, pair) = start(leg, family, |_| {});
    let peer = address(leg, family, 2);
    lose(net.lab.net.far(leg), "eth0", peer);
    answer_by_back(&net.lab, leg, family);
    send_by_back(&net.lab, leg, peer);
    assert_follows(&net, pair, family);
}

/// As when a cable is pulled out: the other way was there all the time.
#[rstest]
#[case::of_clients(Leg::Client)]
#[case::of_endpoints(Leg::Backend(0))]
fn flow_whose_link_has_no_carrier_goes_on_by_another_one(
    #[case] leg: Leg,
    #[values(Family::V4, Family::V6)] family: Family,
) {
    let (net, pair) = start(leg, family, |lab| {
        let (device, router) = (leg.device(), &lab.net.router);
        for ip in ["ipv4", "ipv6"] {
            let conf = format!("{ip}/conf/{device}/ignore_routes_with_linkdown");
            router.sysctl(&conf, "1");
        }
        // An address of IPv6 goes with its link.
        let peer = address(leg, Family::V6, 2);
        lab.net
            .far(leg)
            .batch(&format!("addr add {peer}/128 dev lo nodad\n"));
        has_another_way(lab, leg, family);
    });
    net.lab.net.far(leg).batch("link set eth0 down\n");
    answer_by_back(&net.lab, leg, family);
    assert_follows(&net, pair, family);
}

/// As when a tunnel is taken down, which the kernel tells, and not that of two routes one is left.
#[rstest]
fn flow_whose_link_has_gone_goes_on_by_another_one(
    #[values(Family::V4, Family::V6)] family: Family,
) {
    let leg = Leg::Client;
    let (net, pair) = start(leg, family, |lab| has_another_way(lab, leg, family));
    let (peer, far) = (address(leg, family, 2), net.lab.net.far(leg));
    let bits = if peer.is_ipv4() { 32 } else { 128 };
    net.lab.net.router.batch("link del client\n");
    far.batch(&format!("addr add {peer}/{bits} dev lo\n"));
    answer_by_back(&net.lab, leg, family);
    // Longer than flows that have no other way are left alone.
    thread::sleep(SETTLED);
    assert_follows(&net, pair, family);
}

/// What the router sends to a peer may go by the second link, too.
fn has_another_way(lab: &Lab, leg: Leg, family: Family) {
    let subnet = leg.subnet();
    let (to, gateway) = match family {
        Family::V4 => (format!("192.168.{subnet}.0/24"), format!("10.9.{subnet}.2")),
        Family::V6 => (format!("fd00:{subnet}::/64"), format!("fd09:{subnet}::2")),
    };
    lab.net.router.batch(&format!(
        "route add {to} via {gateway} dev {}back metric 2048\n",
        leg.device()
    ));
}

/// What a peer sends to the router goes by the second link.
pub(super) fn answer_by_back(lab: &Lab, leg: Leg, family: Family) {
    let (own, far) = (address(leg, family, 2), lab.net.far(leg));
    let to = match leg {
        Leg::Client => family.vip(),
        Leg::Backend(_) => address(leg, family, 1),
    };
    let (gateway, bits) = match family {
        Family::V4 => (format!("10.9.{}.1", leg.subnet()), 32),
        Family::V6 => (format!("fd09:{}::1", leg.subnet()), 128),
    };
    far.batch(&format!(
        "route replace {to}/{bits} via {gateway} dev back src {own}\n"
    ));
}

#[test]
fn packets_are_answered_that_are_too_large_for_what_an_interface_takes_by_now() {
    let rig = Rig::start(Datapath::Tc, &[]);
    let pair = rig.open();
    rig.lab.net.router.batch("link set backend0 mtu 1280\n");
    // Longer than it takes to hear of it.
    thread::sleep(Duration::from_secs(1));
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let sent = send(&pair.client, Pattern::new(1), 1 << 20).expect("send");
            pair.client.shutdown(Shutdown::Write).expect("shutdown");
            sent
        });
        let received = receive(&pair.server, SOON);
        assert_eq!(received, (sender.join().expect("the sender"), End::Fin));
    });
    let labels = [("program", "tc"), ("event", "too_big")];
    let answered = rig.router.metric("sni_router_kernel_events_total", &labels);
    assert!(answered > 0.0, "{answered}");
}
