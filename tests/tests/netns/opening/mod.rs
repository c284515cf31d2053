//! Connections that the `tc` datapath opens without sockets, and those that it does not.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use rstest::rstest;
use sni_router_tests::bpffs::Bpffs;
use sni_router_tests::daemon::Datapath;
use sni_router_tests::netns::Namespace;
use sni_router_tests::packet::{ACK, SYN, Segment};
use sni_router_tests::raw::{
    End, Hello, accept, hello, read_exactly, read_to_end, try_accept, write,
};
use sni_router_tests::rig::{BACKEND_PORT, HOST, Lab, Pair, Rig};
use sni_router_tests::site::{PORT, Site};
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::foreign::counted;

mod late;
mod openers;
mod parts;
mod sockets;

/// Packets that the program has taken for the router.
fn taken(rig: &Rig) -> f64 {
    event(rig, "taken")
}

fn event(rig: &Rig, event: &str) -> f64 {
    let labels = [("program", "tc"), ("event", event)];
    rig.router.metric("sni_router_kernel_events_total", &labels)
}

/// A router with a listener and an endpoint of this family.
fn start(family: Family) -> Rig {
    let lab = Lab::new(1);
    let at = lab.net.endpoint(0, family, BACKEND_PORT);
    let endpoint = lab.net.backends[0].listen(at);
    Site::new()
        .vip(family.vip())
        .route(HOST, "one")
        .service("one", [at])
        .write_to(&lab.manifests());
    let router = lab.start(Datapath::Tc, &[]);
    Rig::of(router, endpoint, lab, Datapath::Tc)
}

/// One connection with sockets: the next ones, for a second, need none.
#[track_caller]
fn warm(rig: &Rig, family: Family) {
    let pair = greet(rig, family, &hello(HOST));
    let address = pair.address;
    drop(pair);
    rig.access(address);
}

#[track_caller]
fn greet(rig: &Rig, family: Family, hello: &[u8]) -> Pair {
    let endpoint = rig.endpoint.try_clone().expect("clone");
    Pair::greet(rig.lab.connect(family), hello, &endpoint).answered()
}

/// The state of each TCP socket of the router's namespace, requests included.
fn sockets(rig: &Rig) -> String {
    rig.lab.net.router.output("ss", &["-Htan"])
}

#[test]
fn second_connection_needs_no_socket_and_leaves_none() {
    let rig = Rig::start(Datapath::Tc, &[]);
    warm(&rig, Family::V4);
    assert_eq!(taken(&rig), 0.0);
    let pairs: Vec<_> = (0..50)
        .map(|_| greet(&rig, Family::V4, &hello(HOST)))
        .collect();
    // The end of the handshake and the hello, of most at least: some show each second that all is as it was.
    let count = taken(&rig);
    assert!(
        count >= 80.0,
        "{count} packets were taken of 50 connections"
    );
    for pair in &pairs {
        pair.exchange();
    }
    let left = sockets(&rig);
    assert!(!left.contains("SYN-RECV"), "{left}");
    for pair in pairs {
        let (address, up, down) = (pair.address, pair.up + 4, pair.down + 4);
        drop(pair.client);
        assert_eq!(read_to_end(&pair.server, SOON), (Vec::new(), End::Fin));
        drop(pair.server);
        let access = rig.access(address);
        assert_eq!((access.bytes_up, access.bytes_down), (up, down));
        assert_eq!(access.reason, "done", "{access:?}");
        assert_eq!(access.sni, HOST);
    }
    let connections = rig.router.metric("sni_router_connections_active", &[]);
    assert_eq!(connections, 0.0);
}

/// Of more than one segment, and in pieces that come one after the other.
#[rstest]
#[case::whole(&[usize::MAX])]
#[case::two(&[100, usize::MAX])]
#[case::many(&[1, 4, 1, 200, 300, 10, usize::MAX])]
fn hello_may_come_in_pieces(#[case] cuts: &[usize]) {
    let rig = Rig::start(Datapath::Tc, &[]);
    let hello = Hello {
        post_quantum: true,
        ..Hello::default()
    }
    .bytes(Some(HOST));
    for _ in 0..20 {
        warm(&rig, Family::V4);
        let before = taken(&rig);
        let client = rig.lab.connect(Family::V4);
        client.set_nodelay(true).expect("set TCP_NODELAY");
        let mut rest = hello.as_slice();
        for cut in cuts {
            let piece;
            (piece, rest) = rest.split_at((*cut).min(rest.len()));
            write(&client, piece);
            sleep(Duration::from_millis(2));
        }
        let server = rig.accept();
        assert_eq!(read_exactly(&server, hello.len(), SOON), hello);
        write(&server, b"!");
        assert_eq!(read_exactly(&client, 1, SOON), b"!");
        assert!(taken(&rig) >= before + cuts.len() as f64 + 1.0);
        let address = client.local_addr().expect("a socket");
        drop((client, server));
        let access = rig.access(address);
        assert_eq!(access.bytes_up, hello.len() as u64);
    }
}

/// Whoever has not seen this host's SYN-ACK does not know the number in it: without it, nobody is connected
/// to an endpoint in somebody else's name.
#[test]
fn forged_hello_is_not_taken() {
    let rig = Rig::start(Datapath::Tc, &[]);
    warm(&rig, Family::V4);
    let raw = rig.lab.net.client.run(|| {
        Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).expect("a raw socket")
    });
    let vip = SocketAddr::new(Family::V4.vip(), PORT);
    let victim: IpAddr = "192.168.10.77".parse().expect("an address");
    let clocks = [8, 10, 0, 0, 0, 9, 0, 0, 0, 0];
    let options = [&[2, 4, 5, 180, 4, 2][..], &clocks, &[1, 3, 3, 7]].concat();
    let before = taken(&rig);
    let send = |segment: &Segment| {
        raw.send_to(&segment.ip(), &vip.into()).expect("send");
    };
    for port in 2000..2100 {
        let syn = Segment {
            seq: 1000,
            flags: SYN,
            window: 60_000,
            options: options.clone(),
            ..Segment::new(SocketAddr::new(victim, port), vip)
        };
        send(&syn);
        for guess in [0, 1, 1 << 31, u32::MAX] {
            send(&Segment {
                seq: 1001,
                ack: guess,
                flags: ACK,
                options: [&[1, 1][..], &clocks].concat(),
                payload: hello(HOST),
                ..syn.clone()
            });
        }
    }
    let requests = sockets(&rig).matches("SYN-RECV").count();
    assert!(requests >= 50, "the stack has answered {requests} SYNs");
    assert!(try_accept(&rig.endpoint, Duration::from_millis(500)).is_none());
    assert_eq!(taken(&rig), before);
    // Others are served all the same.
    greet(&rig, Family::V4, &hello(HOST)).exchange();
}

/// Nobody is taken for long by a program whose router is gone.
#[test]
fn killed_router_takes_nobody_with_it() {
    let lab = Lab::new(1);
    let endpoint = lab.listen(0);
    Rig::site(&lab).write_to(&lab.manifests());
    let bpffs = Bpffs::mount();
    let router = lab.start(Datapath::Tc, &["--pin-dir", bpffs.dir()]);
    let mut rig = Rig::of(router, endpoint, lab, Datapath::Tc);
    warm(&rig, Family::V4);
    let pairs: Vec<_> = (0..20)
        .map(|_| greet(&rig, Family::V4, &hello(HOST)))
        .collect();
    rig.router.kill();
    for pair in &pairs {
        pair.exchange();
    }
    rig.router = rig.lab.start(Datapath::Tc, &["--pin-dir", bpffs.dir()]);
    for pair in &pairs {
        pair.exchange();
    }
    warm(&rig, Family::V4);
    let before = taken(&rig);
    greet(&rig, Family::V4, &hello(HOST)).exchange();
    assert!(taken(&rig) > before, "the next router opens as well");
}

#[test]
fn ipv6_is_opened_as_well() {
    let family = Family::V6;
    let rig = start(family);
    warm(&rig, family);
    let pairs: Vec<_> = (0..20).map(|_| greet(&rig, family, &hello(HOST))).collect();
    let count = taken(&rig);
    assert!(
        count >= 30.0,
        "{count} packets were taken of 20 connections"
    );
    for pair in pairs {
        pair.exchange();
        let address = pair.address;
        drop(pair);
        rig.access(address);
    }
}

/// For the namespace of an endpoint.
const LOSES_THE_FIRST_HELLO: &str = "
    table inet loss {
        counter lost { }
        chain input {
            type filter hook prerouting priority raw;
            tcp dport 8443 meta length > 200 numgen inc mod 1000 0 counter name lost drop
        }
    }";

/// The endpoint, which still waits for the end of its handshake, takes it for that: since Linux 6.15 only if it
/// echoes what was in the endpoint's SYN-ACK.
#[test]
fn hello_that_is_lost_is_sent_again() {
    let rig = Rig::start(Datapath::Tc, &[]);
    warm(&rig, Family::V4);
    let backend = &rig.lab.net.backends[0];
    backend.output("nft", &[LOSES_THE_FIRST_HELLO]);
    let before = taken(&rig);
    let pair = greet(&rig, Family::V4, &hello(HOST));
    pair.exchange();
    assert_eq!(taken(&rig) - before, 3.0, "it was opened without sockets");
    assert_eq!(counted(backend, "loss", "lost"), 1);
    // Kernels before that do not count it.
    assert_eq!(counter(backend, "TSEcrRejected").unwrap_or(0), 0);
}

/// By the router: what the client sends again might be something else.
#[test]
fn hello_that_is_lost_needs_no_client_to_arrive() {
    let rig = Rig::start(Datapath::Tc, &[]);
    warm(&rig, Family::V4);
    let backend = &rig.lab.net.backends[0];
    backend.output("nft", &[LOSES_THE_FIRST_HELLO]);
    let hello = hello(HOST);
    let client = rig.lab.connect(Family::V4);
    write(&client, &hello);
    let lost = || counted(backend, "loss", "lost") == 1;
    until("the endpoint has not heard it", SOON, lost);
    rig.lab.net.client.batch("link set eth0 down\n");
    let server = rig.accept();
    assert_eq!(read_exactly(&server, hello.len(), SOON), hello);
}

/// One of the stack's counters. `None` where it has none of this name.
fn counter(namespace: &Namespace, name: &str) -> Option<u64> {
    let counters = namespace.output("cat", &["/proc/net/snmp", "/proc/net/netstat"]);
    let lines: Vec<_> = counters.lines().map(str::split_whitespace).collect();
    let mut pairs = lines.chunks_exact(2).flat_map(|pair| {
        let [names, values] = [0, 1].map(|index| pair[index].clone());
        names.zip(values)
    });
    let (_, value) = pairs.find(|(found, _)| *found == name)?;
    Some(value.parse().expect("a number"))
}

/// Of a router before this one, whose client has not read it all, or of anybody who has bound one.
#[test]
fn ports_of_sockets_that_were_there_before_are_not_used() {
    let lab = Lab::new(1);
    let endpoint = lab.listen(0);
    Rig::site(&lab).write_to(&lab.manifests());
    let held: Vec<_> = (10_000..10_032)
        .map(|port| {
            let client = lab.net.router.run(|| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
                let from = SocketAddr::from(([0, 0, 0, 0], port));
                socket.bind(&from.into()).expect("a free port");
                socket.connect(&lab.endpoint(0).into()).expect("connect");
                TcpStream::from(socket)
            });
            (client, accept(&endpoint, SOON))
        })
        .collect();
    let router = lab.start(Datapath::Tc, &["--tc-ports", "10000-10063"]);
    let rig = Rig::of(router, endpoint, lab, Datapath::Tc);
    for _ in 0..24 {
        warm(&rig, Family::V4);
    }
    let declined = rig.router.metric(
        "sni_router_datapath_declines_total",
        &[("reason", "no_port")],
    );
    assert_eq!(declined, 0.0);
    let backend = &rig.lab.net.backends[0];
    assert_eq!(counter(backend, "TCPSYNChallenge"), Some(0));
    for (client, server) in held {
        write(&client, b"!");
        assert_eq!(read_exactly(&server, 1, SOON), b"!");
    }
}

/// Routes may depend on the address that packets come from, as of hosts with two providers.
#[test]
fn packets_take_the_route_of_their_source() {
    const SOURCE: &str = "192.168.20.99";
    let lab = Lab::new(1);
    let endpoint = lab.listen(0);
    let router = &lab.net.router;
    let to = lab.endpoint(0).ip();
    router.batch(&format!(
        "addr add {SOURCE}/32 dev backend0\n\
         route add {to}/32 dev backend0 table 99\n\
         rule add from {SOURCE} lookup 99\n\
         route add unreachable {to}/32\n"
    ));
    Rig::site(&lab).write_to(&lab.manifests());
    let router = lab.start(Datapath::Tc, &["--tc-source", SOURCE]);
    let rig = Rig::of(router, endpoint, lab, Datapath::Tc);
    warm(&rig, Family::V4);
    let before = taken(&rig);
    let pair = greet(&rig, Family::V4, &hello(HOST));
    let peer = pair.server.peer_addr().expect("a peer");
    assert_eq!(peer.ip().to_string(), SOURCE);
    pair.exchange();
    // The end of the handshake, the hello, and the endpoint's answer, which no socket has had.
    assert_eq!(taken(&rig) - before, 3.0);
}

/// Of which interfaces do not know.
#[test]
fn endpoints_are_told_what_the_route_to_the_client_takes() {
    let rig = Rig::start(Datapath::Tc, &[]);
    let router = &rig.lab.net.router;
    router.batch("route replace 192.168.10.0/24 dev client mtu 1320\n");
    warm(&rig, Family::V4);
    let before = taken(&rig);
    let pair = greet(&rig, Family::V4, &hello(HOST));
    assert!(taken(&rig) > before, "it was opened without sockets");
    // Without both headers and timestamps.
    let segment = SockRef::from(&pair.server).tcp_mss().expect("TCP_MAXSEG");
    assert_eq!(segment, 1320 - 40 - 12);
}

#[test]
fn with_sockets_alone_nothing_is_taken() {
    let rig = Rig::start(Datapath::Tc, &["--tc-open", "sockets"]);
    for _ in 0..5 {
        warm(&rig, Family::V4);
    }
    assert_eq!(taken(&rig), 0.0);
}
