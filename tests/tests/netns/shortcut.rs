//! Packets that go right into the namespace of a pod of this node: `--tc-shortcut`.

use rstest::rstest;
use serde_json::Value;
use sni_router_tests::bpffs::Bpffs;
use sni_router_tests::daemon::Datapath;
use sni_router_tests::netns::Namespace;
use sni_router_tests::raw::{read_exactly, write};
use sni_router_tests::rig::{Pair, Rig};
use sni_router_tests::topology::{Family, Leg};
use sni_router_tests::wait::{SOON, until};

use crate::asymmetric::{TwoLinks, address, lose, send_by_back};
use crate::bulk::transfer;
use crate::moves::answer_by_back;
use crate::restart::next;

/// Where the lab's clients and endpoints are.
const SHORTCUTS: [&str; 4] = ["--tc-shortcut", "client*", "--tc-shortcut", "backend*"];

/// Many more than a packet of 64 KiB.
const BYTES: u64 = 4 << 20;

/// What has left by an interface of the router so far, as whoever looks there sees it.
fn sent_by(router: &Namespace, device: &str) -> u64 {
    let links = router.ip_output(&["-json", "-statistics", "link", "show", "dev", device]);
    let links: Value = serde_json::from_str(&links).expect("JSON");
    let bytes = &links[0]["stats64"]["tx"]["bytes"];
    bytes.as_u64().expect("a number")
}

/// Whole streams both ways, and how many of their bytes were seen at the router's interfaces to the client and to the
/// endpoint.
fn seen_of(router: &Namespace, pair: &Pair, devices: [&str; 2]) -> [u64; 2] {
    let before = devices.map(|device| sent_by(router, device));
    let [down, up] = [(&pair.server, &pair.client), (&pair.client, &pair.server)];
    for (from, to) in [up, down] {
        let (sent, received) = transfer(from, to, 1, BYTES);
        assert_eq!(sent, received);
    }
    let after = devices.map(|device| sent_by(router, device));
    [0, 1].map(|index| after[index] - before[index])
}

/// Both ends are in namespaces of this node here.
#[rstest]
#[case::with_a_shortcut(&SHORTCUTS, true)]
#[case::with_sockets_first(&["--tc-shortcut", "*", "--tc-open", "sockets"], true)]
#[case::behind_others(&["--tc-shortcut", "eth*"], false)]
#[case::as_usual(&[], false)]
fn streams_pass_by_the_hosts_ends_of_pods_only_if_that_is_asked_for(
    #[case] args: &[&str],
    #[case] is_short: bool,
) {
    let rig = Rig::start(Datapath::Tc, args);
    let pair = rig.open().answered();
    let address = pair.address;
    let seen = seen_of(&rig.lab.net.router, &pair, ["client", "backend0"]);
    for bytes in seen {
        // Of a flow that is still being handed over, the first packets.
        match is_short {
            true => assert!(bytes < BYTES / 10, "{seen:?}"),
            false => assert!(bytes >= BYTES, "{seen:?}"),
        }
    }
    let access = rig.access(address);
    assert_eq!((&*access.datapath, &*access.reason), ("tc", "done"));
    assert!(
        access.bytes_up > BYTES && access.bytes_down > BYTES,
        "{access:?}"
    );
}

/// What passes nothing at the host's ends must not go on doing so once nobody asks for it any more.
#[test]
fn flow_takes_no_shortcut_once_its_router_is_one_that_knows_none() {
    let bpffs = Bpffs::mount();
    let pins = ["--pin-dir", bpffs.dir()];
    let mut rig = Rig::start(Datapath::Tc, &[&SHORTCUTS[..], &pins].concat());
    let router = &rig.lab.net.router;
    let pair = rig.open().answered();
    let before = sent_by(router, "backend0");
    let mut sent = 0;
    until("it takes the shortcut", SOON, || {
        write(&pair.client, &[7; 10_000]);
        assert_eq!(read_exactly(&pair.server, 10_000, SOON), [7; 10_000]);
        sent += 10_000;
        sent_by(router, "backend0") - before < sent / 2
    });
    rig.router.kill();
    let next = next(&rig.lab, &bpffs, &rig.lab.admin_of("next"));
    until("it is as usual", SOON, || {
        let before = sent_by(router, "backend0");
        write(&pair.client, &[8; 10_000]);
        assert_eq!(read_exactly(&pair.server, 10_000, SOON), [8; 10_000]);
        sent_by(router, "backend0") - before >= 10_000
    });
    let address = pair.address;
    drop(pair);
    assert_eq!(next.log().access_of(address, SOON).reason, "done");
}

/// Where a flow's packets leave by another interface from now on, they take its shortcut.
#[rstest]
fn flow_takes_the_shortcut_of_the_link_that_its_route_leads_by(
    #[values(Family::V4, Family::V6)] family: Family,
) {
    let leg = Leg::Backend(0);
    let net = TwoLinks::start_with(leg, family, &SHORTCUTS, |_| {});
    let router = &net.lab.net.router;
    let pair = net.open(address(Leg::Client, family, 2));
    let peer = address(leg, family, 2);
    lose(net.lab.net.far(leg), "eth0", peer);
    answer_by_back(&net.lab, leg, family);
    send_by_back(&net.lab, leg, peer);
    pair.exchange();
    let seen = seen_of(router, &pair, ["client", "backend0back"]);
    assert!(seen.iter().all(|bytes| *bytes < BYTES / 10), "{seen:?}");
    let at = pair.address;
    drop(pair);
    assert_eq!(net.router.log().access_of(at, SOON).reason, "done");
}
