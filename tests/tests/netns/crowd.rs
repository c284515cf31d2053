//! A thousand connections that outlive their router.

use std::net::Shutdown;

use sni_router_tests::raw::{End, hello, read_to_end};
use sni_router_tests::rig::{HOST, Pair, alone};
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until};

use crate::restart::Pinned;

const PAIRS: usize = 1000;

/// kill -9 with a thousand connections open: each goes on, without a router and with the next one,
/// which knows them all.
#[test]
fn thousand_connections_survive_the_kill_of_their_router_and_are_adopted() {
    let _alone = alone();
    let mut pinned = Pinned::start();
    let before = pinned.rig.router.descriptors();
    let hello = hello(HOST);
    let pairs: Vec<Pair> = (0..PAIRS).map(|_| open(&pinned, &hello)).collect();
    pairs.iter().for_each(Pair::exchange);
    // Those in the middle of it would be reset.
    until("all are handed over", SOON, || {
        pinned.rig.router.descriptors() <= before
    });
    pinned.rig.router.kill();
    pairs.iter().for_each(Pair::exchange);

    pinned.rig.router = pinned.next(&pinned.rig.lab.admin());
    let status = pinned.rig.router.status();
    assert_eq!(status["connections"], PAIRS, "{status}");
    pairs.iter().for_each(Pair::exchange);
    let mut ended = Vec::new();
    for pair in pairs {
        pair.client.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(read_to_end(&pair.server, SOON), (Vec::new(), End::Fin));
        pair.server.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(read_to_end(&pair.client, SOON), (Vec::new(), End::Fin));
        ended.push((pair.address, pair.up + 12, pair.down + 12));
    }
    for (address, up, down) in ended {
        let access = pinned.rig.access(address);
        assert_eq!(access.reason, "done", "{access:?}");
        let bytes = (access.bytes_up, access.bytes_down);
        assert_eq!(bytes, (up, down), "{access:?}");
    }
}

/// As `Rig::open`, of which a thousand take long: each makes a hello.
#[track_caller]
fn open(pinned: &Pinned, hello: &[u8]) -> Pair {
    let client = pinned.rig.lab.connect(Family::V4);
    Pair::greet(client, hello, &pinned.rig.endpoint)
}
