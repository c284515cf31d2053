//! Routers of different versions after one another: what each leaves to the other.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use aya::maps::MapData;
use rstest::rstest;
use sni_router_common::names;
use sni_router_tests::rig::Pair;
use sni_router_tests::wait::{SOON, until};

use crate::lifetime::claimed;
use crate::restart::Pinned;

impl Pinned {
    /// A connection that a router of another version has left, which was killed, and the directory of
    /// its pins.
    fn leave_another_version(&mut self) -> (Pair, PathBuf) {
        let pair = self.open_left();
        self.rig.router.kill();
        let version = dir_of_version(self);
        let other = version.with_file_name("v0");
        fs::rename(&version, &other).expect("rename");
        (pair, other)
    }
}

/// A router of another version leaves the flows of the one before to that one's program, until the
/// last of them has ended.
#[test]
fn flows_of_another_version_go_on_until_they_end() {
    let mut pinned = Pinned::start();
    let (old, other) = pinned.leave_another_version();

    pinned.rig.router = pinned.next(&pinned.rig.lab.admin());
    old.exchange();
    let new = pinned.open_left();
    new.exchange();
    old.exchange();
    assert_ne!(port_of(&old), port_of(&new), "two flows to one endpoint");
    let status = pinned.rig.router.status();
    assert_eq!(status["connections"], 1, "{status}");
    drop(old);
    until("the other version's pins are removed", SOON, || {
        !other.exists()
    });
    new.exchange();
}

/// Of flows that an earlier router has handed over, of this version or another one, the Listener may be
/// gone. Without its VIP a host does not say any more that packets for it are to come here.
#[rstest]
#[case::of_this_version(false, &["--datapath", "tc"])]
#[case::of_another_version(true, &["--datapath", "tc"])]
#[case::to_a_router_without_tc(false, &["--datapath", "auto", "--tc-ports", "40000-41000"])]
fn vip_stays_claimed_without_a_listener_as_long_as_flows_use_it(
    #[case] is_another_version: bool,
    #[case] datapath: &[&str],
) {
    let mut pinned = Pinned::start();
    let pair = if is_another_version {
        pinned.leave_another_version().0
    } else {
        let pair = pinned.open_left();
        pinned.rig.router.kill();
        pair
    };
    let vip = pair.client.peer_addr().expect("connected").ip();
    let manifests = pinned.rig.lab.manifests();
    for file in fs::read_dir(&manifests).expect("list them") {
        fs::remove_file(file.expect("list them").path()).expect("remove it");
    }
    let args = [datapath, &["--claim-vips", "--pin-dir", pinned.bpffs.dir()]].concat();
    for _ in 0..2 {
        let lab = &pinned.rig.lab;
        pinned.rig.router = lab.start_at(&lab.admin(), &args);
        until("only the VIP of the flow is claimed", SOON, || {
            claimed(&pinned.rig) == [vip.to_string()].into()
        });
        let client = &pinned.rig.lab.net.client;
        client.output("ip", &["neigh", "flush", "all"]);
        pair.exchange();
        pinned.rig.router.terminate(SOON);
        assert_eq!(claimed(&pinned.rig), [vip.to_string()].into());
    }
    let lab = &pinned.rig.lab;
    pinned.rig.router = lab.start_at(&lab.admin(), &args);
    pair.exchange();
    drop(pair);
    // A look at a table takes tens of milliseconds, be it as empty as this one, and a rest of 200 times that.
    let limit = 3 * SOON;
    until("it is given up", limit, || claimed(&pinned.rig).is_empty());
}

/// A router that has no flows itself leaves those of another version alone when it stops, too.
#[test]
fn flows_of_another_version_outlive_a_router_that_stops() {
    let mut pinned = Pinned::start();
    let (old, other) = pinned.leave_another_version();

    pinned.rig.router = pinned.next(&pinned.rig.lab.admin());
    pinned.rig.router.terminate(SOON);
    let version = other.with_file_name(format!("v{}", names::ABI));
    assert!(!version.exists(), "its own are gone");
    old.exchange();
    assert!(!claimed(&pinned.rig).is_empty(), "flows need their VIP");

    pinned.rig.router = pinned.next(&pinned.rig.lab.admin());
    old.exchange();
    drop(old);
    until("the other version's pins are removed", SOON, || {
        !other.exists()
    });
    pinned.rig.router.terminate(SOON);
    assert_eq!(pinned.bpffs.pinned(), Vec::<PathBuf>::new());
    assert!(claimed(&pinned.rig).is_empty());
}

/// Whether flows still need it cannot be told, so nobody takes it away but who is told to.
#[test]
fn table_that_cannot_be_read_stays_until_detach() {
    let mut pinned = Pinned::start();
    let version = dir_of_version(&pinned);
    let other = version.with_file_name("v0");
    fs::create_dir(&other).expect("make a directory");
    let odd = MapData::from_pin(version.join(names::MAP_PORTS)).expect("open a map");
    odd.pin(other.join(names::MAP_FLOWS)).expect("pin it");

    pinned.rig.router.terminate(SOON);
    assert!(other.exists() && !version.exists());
    pinned.rig.router = pinned.next(&pinned.rig.lab.admin());
    pinned.open_left().exchange();
    pinned.rig.router.terminate(SOON);
    assert!(other.exists());
    pinned.detach();
    assert_eq!(pinned.bpffs.pinned(), Vec::<PathBuf>::new());
}

fn dir_of_version(pinned: &Pinned) -> PathBuf {
    let pins = pinned.bpffs.pinned();
    let table = pins.iter().find(|path| path.ends_with("SNI_FLOWS"));
    table
        .and_then(|table| table.parent())
        .expect("a table")
        .to_owned()
}

fn port_of(pair: &Pair) -> SocketAddr {
    pair.server.peer_addr().expect("connected")
}
