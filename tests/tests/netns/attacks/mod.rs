//! Packets that somebody else sends with the addresses of a running connection: it must go on as if
//! they had not been there, wherever it would if the kernel forwarded it.

mod blind;
mod reuse;

use std::io::{ErrorKind, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};

use rstest::rstest;
use sni_router_tests::intruder::Intruder;
use sni_router_tests::netns::Namespace;
use sni_router_tests::packet::{ACK, RST, Segment};
use sni_router_tests::position::Position;
use sni_router_tests::raw::{End, read_exactly, read_to_end, write};
use sni_router_tests::rig::{Lab, Pair};
use sni_router_tests::topology::{Family, Leg};
use sni_router_tests::wait::SOON;
use sni_router_tests::ways::{Way, Ways};
use sni_router_tests::wire::{Layer, Wire};

use self::blind::{ATTACKS, Answer};

/// A router, and somebody who attacks it.
struct Scene {
    ways: Ways,
    intruder: Intruder,
    _wires: [Wire; 2],
}

/// One side of a connection, whose packets are forged.
#[derive(Clone, Copy, Debug)]
struct Side {
    from: SocketAddr,
    to: SocketAddr,
    at: Position,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::new(1);
        // A veth takes it that nothing was damaged on the way to it.
        let legs = [Leg::Client, Leg::Backend(0)];
        let _wires = legs.map(|leg| Wire::lay(&lab.net, leg, Layer::Ether, 1));
        let intruder = Intruder::join(&lab.net);
        let ways = Ways::start(lab);
        Self {
            ways,
            intruder,
            _wires,
        }
    }

    /// How many RSTs the stacks of all namespaces have sent.
    fn resets(&self) -> u64 {
        let net = &self.ways.lab.net;
        let all = [&net.client, &net.router, &net.backends[0]];
        all.into_iter().map(resets).sum()
    }

    /// A count of the kernel programs.
    fn counted(&self, name: &str) -> u64 {
        let status = self.ways.router.status();
        let count = status["kernel"][name].as_u64();
        count.unwrap_or_else(|| panic!("no {name} in {status}"))
    }
}

impl Side {
    fn of(stream: &TcpStream) -> Self {
        Self {
            from: stream.local_addr().expect("a socket"),
            to: stream.peer_addr().expect("a connected socket"),
            at: Position::of(stream),
        }
    }

    /// An acknowledgement of what this side has received, as it would send it itself.
    fn segment(&self) -> Segment {
        Segment {
            seq: self.at.seq,
            ack: self.at.ack,
            ..Segment::new(self.from, self.to)
        }
    }
}

/// Every attack on a connection of its own, from either side: bytes go on both ways, it ends cleanly,
/// and what its record says is what was sent.
#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn blind_attack_does_nothing_to_a_connection(#[case] family: Family) {
    let scene = Scene::new();
    for attack in ATTACKS {
        for way in Way::ALL {
            for is_client in [true, false] {
                let who = if is_client { "client" } else { "endpoint" };
                let what = format!("{}, {way:?}, as the {who}", attack.name);
                eprintln!("{what}");
                let pair = scene.ways.open(way, family);
                let mut sides = [Side::of(&pair.client), Side::of(&pair.server)];
                if !is_client {
                    sides.reverse();
                }
                let (resets, known) = (scene.resets(), scene.counted("tc_redirected"));
                for packet in (attack.packets)(&sides) {
                    scene.intruder.send(&packet);
                }
                if way == Way::Routed {
                    let passed = scene.counted("tc_redirected") - known;
                    match attack.answer {
                        Answer::Receiver => assert!(passed > 0, "{what}: nobody got it"),
                        Answer::Router | Answer::Nobody => assert_eq!(passed, 0, "{what}"),
                    }
                }
                finish(&scene, pair, way, &what);
                if attack.answer != Answer::Nobody {
                    assert_eq!(scene.resets(), resets, "{what}: somebody answered with RST");
                }
            }
        }
    }
}

/// Checks that a connection still carries bytes, both ways, and ends as it should.
#[track_caller]
fn finish(scene: &Scene, pair: Pair, way: Way, what: &str) {
    for round in 0..3 {
        let message = vec![round; 3000];
        write(&pair.client, &message);
        let got = read_exactly(&pair.server, message.len(), SOON);
        assert!(got == message, "{what}: to the endpoint");
        write(&pair.server, &message);
        let got = read_exactly(&pair.client, message.len(), SOON);
        assert!(got == message, "{what}: to the client");
    }
    pair.client.shutdown(Shutdown::Write).expect("shutdown");
    let ended = read_to_end(&pair.server, SOON);
    assert_eq!(ended, (Vec::new(), End::Fin), "{what}");
    pair.server.shutdown(Shutdown::Write).expect("shutdown");
    let ended = read_to_end(&pair.client, SOON);
    assert_eq!(ended, (Vec::new(), End::Fin), "{what}");
    if way == Way::Direct {
        return;
    }
    let access = scene.ways.access(pair.address, &[]);
    assert_eq!(access.reason, "done", "{what}: {access:?}");
    let bytes = (access.bytes_up, access.bytes_down);
    let sent = (pair.up + 9000, pair.down + 9000);
    assert_eq!(bytes, sent, "{what}: {access:?}");
}

/// A RST that its receiver expects does end a connection, whoever sends it, as it would directly.
#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn reset_in_sequence_ends_a_connection(#[case] family: Family) {
    let scene = Scene::new();
    for way in Way::ALL {
        for (is_client, reason) in [(true, "client_reset"), (false, "endpoint_reset")] {
            let pair = scene.ways.open(way, family);
            let (forged, other) = if is_client {
                (&pair.client, &pair.server)
            } else {
                (&pair.server, &pair.client)
            };
            let reset = Segment {
                flags: RST | ACK,
                ..Side::of(forged).segment()
            };
            scene.intruder.send(&reset.ip());
            assert_eq!(read_to_end(other, SOON), (Vec::new(), End::Reset));
            // Who has not sent it hears of it when it speaks, or has heard of it: an acknowledgement
            // that was still under way when the RST overtook it is answered in the same way.
            match (&*forged).write_all(b"?") {
                Ok(()) => assert_eq!(read_to_end(forged, SOON), (Vec::new(), End::Reset)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            }
            if way == Way::Routed {
                let access = scene.ways.access(pair.address, &[]);
                assert_eq!(access.reason, reason, "{access:?}");
            }
        }
    }
}

/// How many RSTs the stack of a namespace has sent.
fn resets(ns: &Namespace) -> u64 {
    stack_count(ns, "snmp", "Tcp", "OutRsts")
}

/// A count of a namespace's stack, of both families, in a file below `/proc/net`.
fn stack_count(ns: &Namespace, file: &str, group: &str, name: &str) -> u64 {
    let path = format!("/proc/thread-self/net/{file}");
    let text = ns.run(|| std::fs::read_to_string(path));
    let text = text.expect("the kernel counts");
    let of_group = |line: &&str| line.split(':').next() == Some(group);
    // A line of names, and one of values.
    let mut lines = text.lines().filter(of_group).map(str::split_whitespace);
    let (names, values) = (lines.next(), lines.next());
    let mut both = names.expect("names").zip(values.expect("values"));
    let (_, value) = both.find(|(found, _)| *found == name).expect(name);
    value.parse().expect("a number")
}
