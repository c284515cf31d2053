//! Clients of which the router has heard a part of a hello.

use sni_router_tests::topology::{Leg, Topology};
use sni_router_tests::wire::{Layer, Rates, Wire};

use super::*;

/// Bytes that the only client there is has sent and not heard of.
#[track_caller]
pub(super) fn queued(rig: &Rig) -> String {
    let client = &rig.lab.net.client;
    let sockets = client.output("ss", &["-Htn", "dport", "443"]);
    let queued = sockets.split_whitespace().nth(2).map(str::to_owned);
    queued.expect("State Recv-Q Send-Q")
}

/// For the namespace of a client, of [`PORTS`].
const LOSES_THE_FIRST_ACKNOWLEDGEMENT: &str = "
    table inet loss {
        counter lost { }
        chain input {
            type filter hook prerouting priority raw;
            tcp dport 30000-30499 tcp flags == ack meta length < 100 numgen inc mod 1000 0 counter name lost drop
        }
    }";

/// What a client's ports are from, once it is to lose something: clients are taken for a second, and `nft` may take as
/// long.
const PORTS: &str = "30000 30499";

/// A client whose timer has run out sends the oldest segment again, and nothing else before it hears of that one. Here
/// it waits for it, also where the first word of it is lost, and where a firewall thinks that there is no
/// such connection.
#[rstest]
#[case::v4(Family::V4, None, None)]
#[case::v6(Family::V6, None, None)]
#[case::lost(Family::V4, Some(LOSES_THE_FIRST_ACKNOWLEDGEMENT), None)]
#[case::tracked(Family::V4, None, Some(DROPS_INVALID))]
fn part_of_a_hello_is_acknowledged(
    #[case] family: Family,
    #[case] at_client: Option<&str>,
    #[case] at_router: Option<&str>,
) {
    let rig = start(family);
    let Topology { client, router, .. } = &rig.lab.net;
    for (namespace, rules) in [(client, at_client), (router, at_router)] {
        if let Some(rules) = rules {
            namespace.output("nft", &[rules]);
        }
    }
    warm(&rig, family);
    client.sysctl("ipv4/ip_local_port_range", PORTS);
    let before = taken(&rig);
    let hello = hello(HOST);
    let stream = rig.lab.connect(family);
    stream.set_nodelay(true).expect("set TCP_NODELAY");
    let (part, rest) = hello.split_at(50);
    let (first, second) = part.split_at(25);
    write(&stream, first);
    write(&stream, second);
    until("the part is acknowledged", SOON, || queued(&rig) == "0");
    write(&stream, rest);
    let server = rig.accept();
    assert_eq!(read_exactly(&server, hello.len(), SOON), hello);
    write(&server, b"!");
    assert_eq!(read_exactly(&stream, 1, SOON), b"!");
    // The end of the handshake, three pieces, and the endpoint's answer.
    assert_eq!(taken(&rig) - before, 5.0, "it was opened without sockets");
    if at_client.is_some() {
        assert_eq!(counted(client, "loss", "lost"), 1);
    }
    if at_router.is_some() {
        let tracked = router.output("conntrack", &["-L", "-p", "tcp"]);
        assert!(!tracked.contains("ESTABLISHED"), "{tracked}");
    }
    let address = stream.local_addr().expect("a socket");
    drop((stream, server));
    let access = rig.access(address);
    assert_eq!(access.bytes_up, hello.len() as u64);
}

/// Then the endpoint's clock goes on from what the client had heard before: what it has heard since must not be
/// later.
#[test]
fn part_is_acknowledged_while_the_rest_is_on_its_way() {
    let lab = Lab::new(1);
    let endpoint = lab.listen(0);
    let wire = Wire::lay(&lab.net, Leg::Client, Layer::Ether, 1);
    Rig::site(&lab).write_to(&lab.manifests());
    let router = lab.start(Datapath::Tc, &[]);
    let rig = Rig::of(router, endpoint, lab, Datapath::Tc);
    let client = &rig.lab.net.client;
    let hello = hello(HOST);
    let (part, rest) = hello.split_at(50);
    let met = || {
        wire.impair(Rates::default());
        warm(&rig, Family::V4);
        wire.impair(Rates {
            delay: Duration::from_millis(150),
            ..Rates::default()
        });
        let before = taken(&rig);
        let stream = rig.lab.connect(Family::V4);
        stream.set_nodelay(true).expect("set TCP_NODELAY");
        let port = stream.local_addr().expect("a socket").port();
        client.output("nft", &[&counts_acknowledgements(port)]);
        write(&stream, part);
        // It is at the router after 150 ms, which says so 100 ms later, and the client hears of that after 400.
        sleep(Duration::from_millis(200));
        write(&stream, rest);
        let early = counted(client, "heard", "acks");
        let server = rig.accept();
        assert_eq!(read_exactly(&server, hello.len(), SOON), hello);
        until("the hello is acknowledged", SOON, || queued(&rig) == "0");
        write(&server, b"!");
        assert_eq!(read_exactly(&stream, 1, SOON), b"!");
        // The router's, one or two, and the endpoint's.
        let all = counted(client, "heard", "acks");
        client.output("nft", &["delete table inet heard"]);
        early == 0 && all >= 2 && taken(&rig) - before == 4.0
    };
    // Where the machine is slow, they may miss each other.
    assert!((0..5).any(|_| met()));
    assert_eq!(counter(client, "PAWSEstab"), Some(0));
}

/// For the namespace of a client that has this port.
fn counts_acknowledgements(port: u16) -> String {
    format!(
        "table inet heard {{
            counter acks {{ }}
            chain input {{
                type filter hook prerouting priority raw;
                tcp dport {port} tcp flags == ack meta length < 100 counter name acks
            }}
        }}"
    )
}

/// For the namespace of a router.
const DROPS_INVALID: &str = "
    table inet firewall {
        chain input {
            type filter hook input priority filter;
            ct state invalid drop
        }
        chain output {
            type filter hook output priority filter;
            ct state invalid drop
        }
    }";
