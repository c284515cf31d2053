//! Several clusters behind one VIP: a directory each, below `clusters/`.

use std::net::TcpListener;
use std::time::Duration;

use rstest::rstest;
use sni_router_tests::access::Access;
use sni_router_tests::daemon::{Datapath, Router};
use sni_router_tests::raw::{hello, refuse, try_accept, write};
use sni_router_tests::rig::{HOST, Lab, Pair};
use sni_router_tests::site::Site;
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until_some};

/// A host of its own for each cluster.
const OWN: [&str; 2] = ["east.example.com", "west.example.com"];

/// What a cluster says: `east` has the lab's first backend, `west` its second.
fn cluster(lab: &Lab, index: u8, annotations: &[(&str, &str)]) -> Site {
    let site = Site::new()
        .multicluster()
        .route(HOST, "one")
        .route(OWN[usize::from(index)], "one")
        .service("one", [lab.endpoint(index)]);
    annotations
        .iter()
        .fold(site, |site, (key, value)| site.annotation(key, value))
}

/// Starts a router for two clusters whose Ingresses have these annotations.
fn start(lab: &Lab, datapath: Datapath, annotations: &[(&str, &str)], args: &[&str]) -> Router {
    for (index, name) in [(0, "east"), (1, "west")] {
        let dir = lab.manifests().join("clusters").join(name);
        cluster(lab, index, annotations).write_to(&dir);
    }
    lab.start(datapath, args)
}

/// A connection for a host that the listening endpoint carries; its record.
#[track_caller]
fn carried(lab: &Lab, router: &Router, host: &str, endpoint: &TcpListener) -> Access {
    let pair = Pair::greet(lab.connect(Family::V4), &hello(host), endpoint).answered();
    pair.exchange();
    let address = pair.address;
    drop(pair);
    router.log().access_of(address, SOON)
}

/// Which of the endpoints a connection to [`HOST`] comes to.
#[track_caller]
fn reached(lab: &Lab, endpoints: &[TcpListener]) -> usize {
    let client = lab.connect(Family::V4);
    write(&client, &hello(HOST));
    let look = || {
        let has_it = |at: &TcpListener| try_accept(at, Duration::from_millis(5)).is_some();
        endpoints.iter().position(has_it)
    };
    until_some("a connection at an endpoint", SOON, look)
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn host_of_both_clusters_reaches_both_and_the_others_one(#[case] datapath: Datapath) {
    let lab = Lab::new(2);
    let listeners = [lab.listen(0), lab.listen(1)];
    let router = start(&lab, datapath, &[], &[]);
    let mut came = [0; 2];
    for _ in 0..20 {
        came[reached(&lab, &listeners)] += 1;
    }
    assert!(came.iter().all(|came| (9..=11).contains(came)), "{came:?}");
    for (host, index) in OWN.into_iter().zip(0..) {
        let access = carried(&lab, &router, host, &listeners[index]);
        let own = lab.endpoint(index as u8).to_string();
        assert_eq!(access.endpoint, own, "{access:?}");
        access.assert_carried(datapath, &[]);
    }
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn local_cluster_is_preferred_until_it_refuses(#[case] datapath: Datapath) {
    let policy = [("sni-router.io/cluster-policy", "prefer-local")];
    let lab = Lab::new(2);
    let (east, west) = (lab.listen(0), lab.listen(1));
    let router = start(&lab, datapath, &policy, &["--local-cluster", "west"]);
    for _ in 0..5 {
        let access = carried(&lab, &router, HOST, &west);
        access.assert_carried(datapath, &[]);
    }
    refuse(west);
    let first = carried(&lab, &router, HOST, &east);
    assert_eq!(first.retries, 1, "{first:?}");
    assert!(first.failed.contains("refused"), "{first:?}");
    for _ in 0..5 {
        let access = carried(&lab, &router, HOST, &east);
        assert_eq!(access.retries, 0, "the cluster is in doubt: {access:?}");
    }
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn connections_fail_over_in_order(#[case] datapath: Datapath) {
    let policy = [
        ("sni-router.io/cluster-policy", "failover"),
        ("sni-router.io/cluster-order", "west,east"),
    ];
    let lab = Lab::new(2);
    let (east, west) = (lab.listen(0), lab.listen(1));
    let router = start(&lab, datapath, &policy, &[]);
    carried(&lab, &router, HOST, &west);
    refuse(west);
    let access = carried(&lab, &router, HOST, &east);
    assert_eq!(access.retries, 1, "{access:?}");
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn cluster_that_turns_passthrough_off_leaves_the_other_serving(#[case] datapath: Datapath) {
    let lab = Lab::new(2);
    let (east, _west) = (lab.listen(0), lab.listen(1));
    let router = start(&lab, datapath, &[], &[]);
    let dir = lab.manifests().join("clusters/west");
    let generation = router.generation();
    cluster(&lab, 1, &[]).passthrough(false).write_to(&dir);
    for side in ["is off here and on in", "is off in west/default/web"] {
        router.log().wait_for_line(side, SOON);
    }
    router.wait_for_generation_after(generation);
    for _ in 0..5 {
        let access = carried(&lab, &router, HOST, &east);
        assert_eq!(access.backend, "east/default/one:tls", "{access:?}");
    }
    let generation = router.generation();
    std::fs::remove_dir_all(&dir).expect("remove a cluster");
    router.wait_for_generation_after(generation);
    for host in [HOST, OWN[0]] {
        carried(&lab, &router, host, &east);
    }
}
