//! Clients that use a port again: what is left of the connection before must not be in their way.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};

use rstest::rstest;
use sni_router_tests::netns::Namespace;
use sni_router_tests::position::vanish;
use sni_router_tests::raw::{End, hello, read_exactly, read_to_end, reset, write};
use sni_router_tests::rig::{BACKEND_PORT, Lab, Pair};
use sni_router_tests::site::PORT;
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until_some};
use sni_router_tests::ways::{Way, Ways, host};

use super::stack_count;

/// How a connection ends before the next one comes from the same port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The endpoint ends first, and so it is the one that remembers the connection.
    Fin,
    ClientResets,
    EndpointResets,
}

const ROUNDS: usize = 100;

/// The client's port.
const OWN_PORT: u16 = 15_001;

#[rstest]
fn port_of_a_client_is_used_again_at_once(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(Ending::Fin, Ending::ClientResets, Ending::EndpointResets)] ending: Ending,
) {
    let ways = Ways::start(Lab::new(1));
    let client = &ways.lab.net.client;
    let repeated = stack_count(client, "netstat", "TcpExt", "TCPSynRetrans");
    for way in Way::ALL {
        for round in 0..ROUNDS {
            let pair = open(&ways, way, family);
            exchange(&pair);
            let sent = (pair.up + 4, pair.down + 4);
            let (address, reason) = (pair.address, end(pair, ending));
            if way == Way::Routed {
                let access = ways.access(address, &[]);
                assert_eq!(access.reason, reason, "round {round}: {access:?}");
                let bytes = (access.bytes_up, access.bytes_down);
                assert_eq!(bytes, sent, "round {round}: {access:?}");
            }
        }
    }
    // A SYN that does not reach a listener is sent again; on a machine that stands still for a
    // second another one may be, too.
    let repeated = stack_count(client, "netstat", "TcpExt", "TCPSynRetrans") - repeated;
    assert!(repeated < 10, "{repeated} SYNs were sent again");
    let status = ways.router.status();
    let reopened = status["kernel"]["tc_reopened"].as_u64();
    assert!(reopened >= Some(ROUNDS as u64 - 1), "{status}");
}

/// A connection that is over as soon as it was handed over, and the next one from its port: the
/// router's own socket of the first one is still there, and asks what the SYN is about. So that has to
/// be sent again, and nothing else may come of it.
#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn port_is_used_again_while_its_connection_is_still_being_handed_over(#[case] family: Family) {
    const FEW: usize = 10;
    let ways = Ways::start(Lab::new(1));
    let mut sent = Vec::new();
    for _ in 0..FEW {
        let pair = open(&ways, Way::Routed, family);
        sent.push((pair.address, pair.up));
        end(pair, Ending::Fin);
    }
    for (round, (address, up)) in sent.into_iter().enumerate() {
        let access = ways.access(address, &[]);
        assert_eq!(access.reason, "done", "round {round}: {access:?}");
        let bytes = (access.bytes_up, access.bytes_down);
        assert_eq!(bytes, (up, 0), "round {round}: {access:?}");
    }
}

/// The client's host has lost its power, and comes back with the same port while the connection is
/// still alive for everybody else: the endpoint asks what that is about, is told, and the next SYN
/// opens a new connection.
#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn client_that_has_lost_its_memory_connects_again_from_the_same_port(#[case] family: Family) {
    let ways = Ways::start(Lab::new(1));
    for way in Way::ALL {
        let Pair {
            client,
            server,
            address,
            ..
        } = open(&ways, way, family);
        vanish(client);
        let pair = open(&ways, way, family);
        assert_eq!(pair.address, address);
        assert_eq!(read_to_end(&server, SOON), (Vec::new(), End::Reset));
        exchange(&pair);
        if way == Way::Routed {
            let access = ways.access(address, &[]);
            assert_eq!(access.reason, "client_reset", "{access:?}");
        }
        end(pair, Ending::Fin);
        if way == Way::Routed {
            let access = ways.access(address, &[]);
            assert_eq!(access.reason, "done", "{access:?}");
        }
    }
}

/// Both have lost their memory, and only the router has not: what the client opens anew goes to a listener, as its hello must
/// be judged anew.
#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn connection_that_both_ends_have_forgotten_opens_no_other_one_at_the_endpoint(
    #[case] family: Family,
) {
    let ways = Ways::start(Lab::new(1));
    let Pair {
        client,
        server,
        address,
        ..
    } = open(&ways, Way::Routed, family);
    vanish(client);
    vanish(server);
    let pair = open(&ways, Way::Routed, family);
    assert_eq!(pair.address, address);
    let access = ways.access(address, &[]);
    // By the client where an acknowledgement was still on its way, which it knows nothing of either.
    let is_reset = ["endpoint_reset", "client_reset"].contains(&&*access.reason);
    assert!(is_reset, "{access:?}");
    exchange(&pair);
    end(pair, Ending::Fin);
    let access = ways.access(address, &[]);
    assert_eq!(access.reason, "done", "{access:?}");
}

/// Opens a connection from the one port, once the client's own stack lets it.
#[track_caller]
fn open(ways: &Ways, way: Way, family: Family) -> Pair {
    let net = &ways.lab.net;
    let to = match way {
        Way::Direct => net.endpoint(0, family, BACKEND_PORT),
        Way::Routed => SocketAddr::new(family.vip(), PORT),
    };
    // The last acknowledgement of the connection before may still be under way.
    let client = until_some("the client's port is free", SOON, || {
        match connect(&net.client, to) {
            Ok(client) => Some(client),
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => None,
            Err(error) => panic!("connect to {to}: {error}"),
        }
    });
    Pair::greet(client, &hello(host(family)), &ways.endpoint(family))
}

fn connect(ns: &Namespace, to: SocketAddr) -> io::Result<TcpStream> {
    ns.run(|| {
        let domain = socket2::Domain::for_address(to);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        let any: SocketAddr = match to {
            SocketAddr::V4(_) => ([0; 4], OWN_PORT).into(),
            SocketAddr::V6(_) => ([0; 16], OWN_PORT).into(),
        };
        socket.bind(&any.into())?;
        socket.connect_timeout(&to.into(), SOON)?;
        socket.set_tcp_nodelay(true)?;
        Ok(socket.into())
    })
}

/// A message each way.
fn exchange(pair: &Pair) {
    write(&pair.client, b"ping");
    assert_eq!(read_exactly(&pair.server, 4, SOON), b"ping");
    write(&pair.server, b"pong");
    assert_eq!(read_exactly(&pair.client, 4, SOON), b"pong");
}

/// Ends a connection, and tells what its record must say of that.
fn end(pair: Pair, ending: Ending) -> &'static str {
    match ending {
        Ending::Fin => {
            pair.server.shutdown(Shutdown::Write).expect("shutdown");
            assert_eq!(read_to_end(&pair.client, SOON), (Vec::new(), End::Fin));
            drop(pair.client);
            assert_eq!(read_to_end(&pair.server, SOON), (Vec::new(), End::Fin));
            "done"
        }
        Ending::ClientResets => {
            reset(pair.client);
            assert_eq!(read_to_end(&pair.server, SOON), (Vec::new(), End::Reset));
            "client_reset"
        }
        Ending::EndpointResets => {
            reset(pair.server);
            assert_eq!(read_to_end(&pair.client, SOON), (Vec::new(), End::Reset));
            "endpoint_reset"
        }
    }
}
