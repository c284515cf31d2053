//! Transfers over bad wires: what is lost, late, doubled or damaged on the way, on either side of
//! the router, is for the two ends to repair.

use std::env;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use sni_router_tests::bulk::{Pattern, receive, send, sum};
use sni_router_tests::raw::{End, Hello, read_exactly, read_to_end, write};
use sni_router_tests::rig::{Lab, Pair, alone};
use sni_router_tests::server::Server;
use sni_router_tests::topology::{Family, Leg};
use sni_router_tests::ways::{Way, Ways, host};
use sni_router_tests::wire::{Layer, Rates, Side, Wire};

/// Far more than a loaded machine needs for one of the transfers.
const LIMIT: Duration = Duration::from_secs(60);

/// A wire that nobody would pay for.
const BAD: Rates = Rates {
    loss: 20,
    duplication: 20,
    reordering: 20,
    corruption: 0,
    truncation: 0,
    delay: Duration::ZERO,
};

/// Every bit that it flips is one that a checksum covers.
const DAMAGING: Rates = Rates {
    loss: 0,
    duplication: 0,
    reordering: 0,
    corruption: 20,
    truncation: 10,
    delay: Duration::ZERO,
};

/// MiB of a long transfer; `SNI_ROUTER_WIRE_MIB` asks for more.
fn mebibytes() -> u64 {
    let asked = env::var("SNI_ROUTER_WIRE_MIB").ok();
    asked.map_or(16, |asked| asked.parse().expect("a number of MiB"))
}

/// A router with wires for links, the client's first.
fn start(layer: Layer) -> ([Wire; 2], Ways) {
    let lab = Lab::new(1);
    let wires = [Leg::Client, Leg::Backend(0)].map(|leg| Wire::lay(&lab.net, leg, layer, 1));
    (wires, Ways::start(lab))
}

/// Every family, over either wire.
fn courses() -> impl Iterator<Item = (Family, usize)> {
    Family::ALL
        .into_iter()
        .flat_map(|family| [(family, 0), (family, 1)])
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
pub(super) fn there_and_back(pair: &Pair, bytes: u64) -> Duration {
    let begin = Instant::now();
    transfer(&pair.client, &pair.server, bytes);
    transfer(&pair.server, &pair.client, bytes);
    begin.elapsed()
}

/// The record says that `tc` has carried all of it.
#[track_caller]
pub(super) fn check(ways: &Ways, pair: &Pair, bytes: u64) {
    let access = ways.access(pair.address, &[]);
    assert_eq!(access.reason, "done", "{access:?}");
    assert_eq!(access.bytes_up, pair.up + bytes, "{access:?}");
    assert_eq!(access.bytes_down, pair.down + bytes, "{access:?}");
}

#[test]
fn transfer_over_a_bad_wire_arrives_intact() {
    let _alone = alone();
    let (wires, ways) = start(Layer::Ether);
    let bytes = mebibytes() << 20;
    for (family, leg) in courses() {
        let took = Way::ALL.map(|way| {
            let pair = ways.open(way, family);
            wires[leg].impair(BAD);
            let took = there_and_back(&pair, bytes);
            wires[leg].impair(Rates::default());
            if way == Way::Routed {
                check(&ways, &pair, bytes);
            }
            2.0 * bytes as f64 / took.as_secs_f64() / 1e6
        });
        let [direct, routed] = took;
        let over = ["client's", "backend's"][leg];
        eprintln!("{family:?}, the {over} wire: {direct:.1} MB/s directly, {routed:.1} routed");
    }
    for wire in &wires {
        for side in [Side::Far, Side::Router] {
            let done = wire.done(side);
            assert!(done.loss > 100, "{done:?}");
            assert!(done.duplication > 100, "{done:?}");
            assert!(done.reordering > 100, "{done:?}");
        }
    }
}

#[test]
fn damaged_packets_reach_nobody_and_end_nothing() {
    let _alone = alone();
    let (wires, ways) = start(Layer::Ether);
    let bytes = mebibytes() << 20;
    for (family, leg) in courses() {
        let pair = ways.open(Way::Routed, family);
        wires[leg].impair(DAMAGING);
        there_and_back(&pair, bytes);
        wires[leg].impair(Rates::default());
        check(&ways, &pair, bytes);
    }
    for wire in &wires {
        for side in [Side::Far, Side::Router] {
            let done = wire.done(side);
            assert!(done.corruption > 100, "{done:?}");
            assert!(done.truncation > 50, "{done:?}");
        }
    }
}

/// Two more programs than one: an Ethernet header comes and goes.
#[test]
fn interfaces_without_a_link_layer_header_carry() {
    let (wires, ways) = start(Layer::Ip);
    let bytes = 4 << 20;
    for (family, leg) in courses() {
        let pair = ways.open(Way::Routed, family);
        wires[leg].impair(BAD);
        there_and_back(&pair, bytes);
        wires[leg].impair(Rates::default());
        check(&ways, &pair, bytes);
    }
}

/// The hand-over itself is under way when packets are lost: a client that has to send part of its
/// hello again may be declined, but is carried all the same.
#[test]
fn hellos_over_bad_wires_arrive_intact() {
    const CLIENTS: usize = 40;
    let (wires, ways) = start(Layer::Ether);
    for wire in &wires {
        wire.impair(Rates {
            // A SYN that is lost four times in a row comes too late for the test.
            loss: 30,
            corruption: 10,
            truncation: 5,
            ..BAD
        });
    }
    for family in Family::ALL {
        let hello = Hello {
            post_quantum: true,
            ..Hello::default()
        };
        let hello = hello.bytes(Some(host(family)));
        let len = hello.len();
        let server = Server::spawn(ways.endpoint(family), move |stream| {
            let got = read_exactly(&stream, len, LIMIT);
            write(&stream, &got);
            assert_eq!(read_to_end(&stream, LIMIT), (Vec::new(), End::Fin));
        });
        let client = || {
            let client = ways.connect(Way::Routed, family);
            write(&client, &hello);
            assert!(read_exactly(&client, len, LIMIT) == hello, "the answer");
            let address = client.local_addr().expect("a connected socket");
            client.shutdown(Shutdown::Write).expect("shutdown");
            assert_eq!(read_to_end(&client, LIMIT), (Vec::new(), End::Fin));
            let access = ways.access(address, &["in_flight"]);
            assert_eq!(access.reason, "done", "{access:?}");
            access.datapath == "tc"
        };
        let carried = thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            let joined = clients.into_iter().map(|client| client.join());
            joined.filter(|tc| *tc.as_ref().expect("a client")).count()
        });
        server.check();
        assert!(carried > CLIENTS / 2, "tc has carried {carried}");
        eprintln!("{family:?}: tc has carried {carried} of {CLIENTS}");
    }
}

/// A path gets narrower while bytes are on their way, behind either of the router's links. Whoever
/// sends too much must hear of it, though the error names a connection it has never heard of.
#[test]
fn path_that_gets_narrower_in_mid_transfer_keeps_going() {
    const HALF: usize = 4 << 20;
    let half = Pattern::new(1).bytes(HALF);
    let whole = sum(&[&half[..], &half].concat());
    let (wires, ways) = start(Layer::Ether);
    // What was once found out about a path is remembered, so each case has less.
    let mut mtu = 1480;
    for (family, leg) in courses() {
        for way in Way::ALL {
            let pair = ways.open(way, family);
            for (from, to) in [(&pair.client, &pair.server), (&pair.server, &pair.client)] {
                let wire = &wires[leg];
                wire.narrow(u16::MAX);
                let known = wire.too_big();
                thread::scope(|scope| {
                    let receiver = scope.spawn(|| receive(to, LIMIT));
                    write(from, &half);
                    wire.narrow(mtu);
                    write(from, &half);
                    from.shutdown(Shutdown::Write).expect("shutdown");
                    let (received, end) = receiver.join().expect("the receiver");
                    assert_eq!(end, End::Fin, "{family:?}, {way:?}, MTU {mtu}");
                    assert_eq!(received, whole, "{family:?}, {way:?}, MTU {mtu}");
                });
                assert!(wire.too_big() > known, "{family:?}, {way:?}, MTU {mtu}");
                mtu -= 12;
            }
            wires[leg].narrow(u16::MAX);
            if way == Way::Routed {
                check(&ways, &pair, whole.len);
            }
        }
    }
}
