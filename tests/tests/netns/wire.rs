//! Transfers over bad wires: what is lost, late, doubled or damaged on the way, on either side of
//! the router, is for the two ends to repair.

use std::env;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rstest::rstest;
use sni_router_tests::bulk::{Pattern, receive, send};
use sni_router_tests::raw::End;
use sni_router_tests::rig::{Lab, Pair, alone};
use sni_router_tests::topology::{Family, Leg};
use sni_router_tests::ways::{Way, Ways};
use sni_router_tests::wire::{Layer, Rates, Side, Wire};

/// Far more than a loaded machine needs for one of the transfers.
const LIMIT: Duration = Duration::from_secs(60);

const CLIENT: Leg = Leg::Client;
const BACKEND: Leg = Leg::Backend(0);

/// A wire that nobody would pay for.
const BAD: Rates = Rates {
    loss: 20,
    duplication: 20,
    reordering: 20,
    corruption: 0,
    truncation: 0,
    delay: Duration::ZERO,
};

/// MiB of a long transfer; `SNI_ROUTER_WIRE_MIB` asks for more.
fn mebibytes() -> u64 {
    let asked = env::var("SNI_ROUTER_WIRE_MIB").ok();
    asked.map_or(16, |asked| asked.parse().expect("a number of MiB"))
}

/// A router with a wire instead of one of its links.
fn start(leg: Leg, layer: Layer, family: Family) -> (Wire, Ways) {
    let lab = Lab::new(1);
    let wire = Wire::lay(&lab.net, leg, layer, 1);
    (wire, Ways::start(lab, family))
}

/// Sends bytes that end with FIN; they must arrive as they are.
fn transfer(from: &TcpStream, to: &TcpStream, bytes: u64) {
    thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let sum = send(from, Pattern::new(bytes), bytes).expect("send");
            from.shutdown(Shutdown::Write).expect("shutdown");
            sum
        });
        let limit = LIMIT * u32::try_from(1 + bytes / (64 << 20)).expect("some GiB");
        let (received, end) = receive(to, limit);
        assert_eq!(end, End::Fin);
        assert_eq!(sender.join().expect("the sender"), received);
    });
}

/// Up, then down.
fn there_and_back(pair: &Pair, bytes: u64) -> Duration {
    let begin = Instant::now();
    transfer(&pair.client, &pair.server, bytes);
    transfer(&pair.server, &pair.client, bytes);
    begin.elapsed()
}

/// The record says that `tc` has carried all of it.
#[track_caller]
fn check(ways: &Ways, pair: &Pair, bytes: u64) {
    let access = ways.access(pair.address, &[]);
    assert_eq!(access.reason, "done", "{access:?}");
    assert_eq!(access.bytes_up, pair.up + bytes, "{access:?}");
    assert_eq!(access.bytes_down, pair.down + bytes, "{access:?}");
}

#[rstest]
fn transfer_over_a_bad_wire_arrives_intact(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(CLIENT, BACKEND)] leg: Leg,
) {
    let _alone = alone();
    let (wire, ways) = start(leg, Layer::Ether, family);
    let bytes = mebibytes() << 20;
    let took = Way::ALL.map(|way| {
        wire.impair(Rates::default());
        let pair = ways.open(way);
        wire.impair(BAD);
        let took = there_and_back(&pair, bytes);
        if way == Way::Routed {
            check(&ways, &pair, bytes);
        }
        took.as_secs_f64()
    });
    for side in [Side::Far, Side::Router] {
        let done = wire.done(side);
        assert!(done.loss > 100, "{done:?}");
        assert!(done.duplication > 100, "{done:?}");
        assert!(done.reordering > 100, "{done:?}");
    }
    let [direct, routed] = took.map(|took| 2.0 * bytes as f64 / took / 1e6);
    eprintln!("{leg:?}, {family:?}: {direct:.1} MB/s directly, {routed:.1} MB/s by the router");
}

#[rstest]
fn damaged_packets_reach_nobody_and_end_nothing(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(CLIENT, BACKEND)] leg: Leg,
) {
    let _alone = alone();
    let (wire, ways) = start(leg, Layer::Ether, family);
    let bytes = mebibytes() << 20;
    let pair = ways.open(Way::Routed);
    wire.impair(Rates {
        corruption: 20,
        truncation: 10,
        ..Rates::default()
    });
    there_and_back(&pair, bytes);
    check(&ways, &pair, bytes);
    for side in [Side::Far, Side::Router] {
        let done = wire.done(side);
        assert!(done.corruption > 100, "{done:?}");
        assert!(done.truncation > 50, "{done:?}");
    }
}

#[rstest]
fn interface_without_a_link_layer_header_carries(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(CLIENT, BACKEND)] leg: Leg,
) {
    let (wire, ways) = start(leg, Layer::Ip, family);
    let bytes = 4 << 20;
    let pair = ways.open(Way::Routed);
    wire.impair(BAD);
    there_and_back(&pair, bytes);
    check(&ways, &pair, bytes);
}
