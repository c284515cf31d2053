//! What a connection does directly, it does through `tc`: the same bytes, the same endings, whatever
//! the two sides' stacks agree upon.

#[path = "../../../sni-router-core/tests/hello_support/mod.rs"]
mod hello_support;

use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use rstest::rstest;
use sni_router_tests::access::Access;
use sni_router_tests::bulk::{self, Pattern, Sum, receive, send};
use sni_router_tests::netns::Namespace;
use sni_router_tests::raw::{End, read_exactly, reset, write};
use sni_router_tests::rig::{Lab, Pair};
use sni_router_tests::topology::{Family, Leg, VIP4, VIP6};
use sni_router_tests::wait::{SOON, until};
use sni_router_tests::ways::{Way, Ways, host};
use sni_router_tests::wire::{Layer, Rates, Wire};

use self::hello_support::Draft;

/// Far more than a loaded machine needs for one of the transfers.
const LIMIT: Duration = Duration::from_secs(30);

/// How a connection comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The client first, which goes on reading.
    ClientFin,
    /// The endpoint first, which goes on reading.
    EndpointFin,
    /// Both at once, each with bytes under way.
    BothFin,
    ClientReset,
    EndpointReset,
    /// With bytes that were not read, as when a process dies: that is a RST (RFC 2525, section 2.17).
    ClientGone,
    EndpointGone,
}

impl Ending {
    const ALL: [Self; 7] = [
        Self::ClientFin,
        Self::EndpointFin,
        Self::BothFin,
        Self::ClientReset,
        Self::EndpointReset,
        Self::ClientGone,
        Self::EndpointGone,
    ];

    /// The reason in the access record.
    fn reason(self) -> &'static str {
        match self {
            Self::ClientFin | Self::EndpointFin | Self::BothFin => "done",
            Self::ClientReset | Self::ClientGone => "client_reset",
            Self::EndpointReset | Self::EndpointGone => "endpoint_reset",
        }
    }

    /// Bytes each way, then the end. What either side has received, and how its stream ended.
    fn play(self, pair: Pair, bytes: u64) -> Vec<(Sum, End)> {
        let Pair { client, server, .. } = pair;
        match self {
            Self::ClientFin => vec![give(&client, &server, bytes), give(&server, &client, bytes)],
            Self::EndpointFin => vec![give(&server, &client, bytes), give(&client, &server, bytes)],
            Self::BothFin => thread::scope(|scope| {
                let up = scope.spawn(|| give(&client, &server, bytes));
                let down = give(&server, &client, bytes);
                vec![up.join().expect("the way up"), down]
            }),
            Self::ClientReset => break_off(client, &server, reset),
            Self::EndpointReset => break_off(server, &client, reset),
            Self::ClientGone => break_off(client, &server, leave_unread(&server)),
            Self::EndpointGone => break_off(server, &client, leave_unread(&client)),
        }
    }
}

/// Sends bytes and FIN.
fn give(from: &TcpStream, to: &TcpStream, bytes: u64) -> (Sum, End) {
    thread::scope(|scope| {
        scope.spawn(|| {
            send(from, Pattern::new(bytes), bytes).expect("send");
            from.shutdown(Shutdown::Write).expect("shutdown");
        });
        receive(to, LIMIT)
    })
}

/// Has one side end the connection once the other one has read all there is.
fn break_off(ending: TcpStream, other: &TcpStream, end: impl FnOnce(TcpStream)) -> Vec<(Sum, End)> {
    write(&ending, b"last words");
    let words = read_exactly(other, 10, SOON);
    end(ending);
    vec![(bulk::sum(&words), End::Reset), receive(other, SOON)]
}

/// Closes a socket that has something to read from the other side.
fn leave_unread(other: &TcpStream) -> impl FnOnce(TcpStream) + '_ {
    |ending| {
        write(other, b"never read");
        until("unread bytes", SOON, || {
            ending.peek(&mut [0; 10]).expect("peek") == 10
        });
    }
}

/// Plays the same on both ways, and answers with the access record of the routed one.
#[track_caller]
fn compare(ways: &Ways, family: Family, ending: Ending, bytes: u64, case: &str) -> Access {
    let mut address = None;
    let [direct, routed] = Way::ALL.map(|way| {
        let pair = ways.open(way, family);
        address = Some(pair.address);
        ending.play(pair, bytes)
    });
    assert_eq!(
        direct, routed,
        "{case}, {family:?}, {ending:?}, {bytes} bytes"
    );
    let address = address.expect("a connection");
    let access = ways.router.log().access_of(address, SOON);
    assert_eq!(access.reason, ending.reason(), "{case}: {access:?}");
    access
}

#[track_caller]
fn assert_carried(access: &Access, case: &str) {
    assert_eq!(access.datapath, "tc", "{case}: {access:?}");
}

#[test]
fn connections_end_as_direct_ones_do() {
    let ways = Ways::start(Lab::new(1));
    for family in Family::ALL {
        for ending in Ending::ALL {
            for bytes in [0, 1, 1_000, 500_000] {
                let access = compare(&ways, family, ending, bytes, "plain");
                assert_carried(&access, "plain");
            }
        }
    }
}

/// Every setting on and off at either side. The wires lose packets, so that there are blocks to
/// acknowledge selectively.
#[rstest]
fn stacks_agree_on_what_they_like(#[values(Family::V4, Family::V6)] family: Family) {
    const BYTES: u64 = 100_000;
    let lab = Lab::new(1);
    let wires = [Leg::Client, Leg::Backend(0)].map(|leg| Wire::lay(&lab.net, leg, Layer::Ether, 2));
    let ways = Ways::start(lab);
    for wire in &wires {
        wire.impair(Rates {
            loss: 10,
            reordering: 50,
            ..Rates::default()
        });
    }
    let (client, endpoint) = (&ways.lab.net.client, &ways.lab.net.backends[0]);
    for case in 0_u8..64 {
        let agreed = [client, endpoint].map(|side| {
            let shift = if side.name() == client.name() { 0 } else { 3 };
            agree(side, case >> shift)
        });
        let text = format!("client {:?}, endpoint {:?}", agreed[0], agreed[1]);
        let access = compare(&ways, family, Ending::BothFin, BYTES, &text);
        if agreed[0].timestamps == agreed[1].timestamps {
            assert_carried(&access, &text);
        } else {
            assert_ne!(access.datapath, "tc", "{text}: {access:?}");
            assert_eq!(access.declined, "options_differ", "{text}: {access:?}");
        }
    }
}

/// What a side is ready for.
#[derive(Clone, Copy, Debug)]
struct Agreed {
    timestamps: bool,
    #[allow(dead_code, reason = "for messages")]
    sack: bool,
    #[allow(dead_code, reason = "for messages")]
    scaling: bool,
}

/// Makes a side ready for what the lowest three bits say.
fn agree(side: &Namespace, bits: u8) -> Agreed {
    let [timestamps, sack, scaling] = [1, 2, 4].map(|bit| bits & bit == 0);
    for (name, is_on) in [
        ("timestamps", timestamps),
        ("sack", sack),
        ("window_scaling", scaling),
    ] {
        side.sysctl(&format!("ipv4/tcp_{name}"), if is_on { "1" } else { "0" });
    }
    Agreed {
        timestamps,
        sack,
        scaling,
    }
}

/// Segments as small and as large as there are: what the two sides announce, by routes and by what
/// the links take.
#[test]
fn segments_of_any_size_pass() {
    let ways = Ways::start(Lab::new(1));
    for mtu in [1500, 9000] {
        for leg in [Leg::Client, Leg::Backend(0)] {
            let (far, router) = (ways.lab.net.far(leg), &ways.lab.net.router);
            far.batch(&format!("link set eth0 mtu {mtu}\n"));
            router.batch(&format!("link set {} mtu {mtu}\n", leg.device()));
        }
        for announced in [[0, 0], [536, 536], [536, 0], [0, 536]] {
            announce(&ways, announced);
            for family in Family::ALL {
                let case = format!("MTU {mtu}, announced {announced:?}");
                let access = compare(&ways, family, Ending::BothFin, 2_000_000, &case);
                assert_carried(&access, &case);
            }
        }
    }
}

/// Has the client and the endpoint announce an MSS; 0 is what the link takes.
fn announce(ways: &Ways, [client, endpoint]: [u16; 2]) {
    let advmss = |mss| match mss {
        0 => String::new(),
        mss => format!("advmss {mss}"),
    };
    let (up, down) = (advmss(client), advmss(endpoint));
    ways.lab.net.client.batch(&format!(
        "route replace {VIP4}/32 via 192.168.10.1 {up}\n\
         route replace {VIP6}/128 via fd00:10::1 {up}\n\
         route replace 192.168.20.0/24 via 192.168.10.1 {up}\n\
         route replace fd00:20::/64 via fd00:10::1 {up}\n"
    ));
    ways.lab.net.backends[0].batch(&format!(
        "route replace 192.168.20.1/32 dev eth0 {down}\n\
         route replace fd00:20::1/128 dev eth0 {down}\n\
         route replace 192.168.10.0/24 via 192.168.20.1 {down}\n\
         route replace fd00:10::/64 via fd00:20::1 {down}\n"
    ));
}

/// How a client sends its hello, and what it has to say right behind it.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// With one call.
    Whole,
    /// In pieces.
    Cut,
    /// With one call, into a wire on which packets overtake each other.
    Shuffled,
}

#[rstest]
fn hellos_of_any_size_arrive_with_what_is_behind_them(
    #[values(Manner::Whole, Manner::Cut, Manner::Shuffled)] manner: Manner,
) {
    let lab = Lab::new(1);
    let wire = Wire::lay(&lab.net, Leg::Client, Layer::Ether, 3);
    let ways = Ways::start(lab);
    if let Manner::Shuffled = manner {
        wire.impair(Rates {
            reordering: 400,
            ..Rates::default()
        });
    }
    for family in Family::ALL {
        for size in [200, 517, 1_400, 1_800, 5_000, 16_389, 40_000, 60 << 10] {
            for behind in [0, 1, 1_000, 14_000, 100_000] {
                let case = format!("{manner:?}, hello of {size}, {behind} behind it");
                let hello = Draft::padded(host(family), size).stream();
                assert_eq!(hello.len(), size);
                let early = [hello, Pattern::new(7).bytes(behind)].concat();
                let mut address = None;
                let [direct, routed] = Way::ALL.map(|way| {
                    let client = ways.connect(way, family);
                    address = Some(client.local_addr().expect("a connected socket"));
                    greet(&ways, family, client, &early, manner)
                });
                assert_eq!(direct, routed, "{case}, {family:?}");
                let access = ways.access(address.expect("a connection"), &[]);
                assert_eq!(access.reason, "done", "{case}, {family:?}: {access:?}");
                assert_eq!(access.bytes_up, early.len() as u64 + 1_000, "{access:?}");
            }
        }
    }
}

/// Sends early bytes, an answer to them, and an answer to that; what arrived each way.
fn greet(
    ways: &Ways,
    family: Family,
    client: TcpStream,
    early: &[u8],
    manner: Manner,
) -> [(Sum, End); 2] {
    thread::scope(|scope| {
        scope.spawn(|| {
            let piece = match manner {
                Manner::Cut => 1 + early.len() / 7,
                Manner::Whole | Manner::Shuffled => early.len(),
            };
            for piece in early.chunks(piece) {
                write(&client, piece);
            }
        });
        let server = ways.accept(family);
        assert!(
            read_exactly(&server, early.len(), SOON) == early,
            "early bytes"
        );
        let pair = Pair {
            address: client.local_addr().expect("a connected socket"),
            client: client.try_clone().expect("clone a socket"),
            server,
            up: 0,
            down: 0,
        };
        let outcome = Ending::EndpointFin.play(pair, 1_000);
        outcome.try_into().expect("two ways")
    })
}
