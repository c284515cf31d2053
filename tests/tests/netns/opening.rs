//! Connections that the `tc` datapath opens without sockets, and those that it does not.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rstest::rstest;
use sni_router_tests::bpffs::Bpffs;
use sni_router_tests::daemon::Datapath;
use sni_router_tests::packet::{ACK, SYN, Segment};
use sni_router_tests::raw::{End, Hello, hello, read_exactly, read_to_end, try_accept, write};
use sni_router_tests::rig::{HOST, Lab, Pair, Rig};
use sni_router_tests::site::{PORT, Site};
use sni_router_tests::topology::Family;
use sni_router_tests::wait::SOON;
use socket2::{Domain, Protocol, Socket, Type};

use crate::foreign::counted;

/// Packets that the program has taken for the router.
fn taken(rig: &Rig) -> f64 {
    event(rig, "taken")
}

fn event(rig: &Rig, event: &str) -> f64 {
    let labels = [("program", "tc"), ("event", event)];
    rig.router.metric("sni_router_kernel_events_total", &labels)
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

/// What comes too late for an opening gets a socket with what has come before.
#[test]
fn hello_that_is_never_whole_gets_a_socket_and_its_time() {
    let rig = Rig::start(Datapath::Tc, &["--hello-timeout", "3s"]);
    let hello = hello(HOST);
    warm(&rig, Family::V4);
    let slow = rig.lab.connect(Family::V4);
    let never = rig.lab.connect(Family::V4);
    write(&slow, &hello[..50]);
    write(&never, &hello[..50]);
    sleep(Duration::from_millis(1500));
    write(&slow, &hello[50..]);
    let server = rig.accept();
    assert_eq!(read_exactly(&server, hello.len(), SOON), hello);
    write(&server, b"late");
    assert_eq!(read_exactly(&slow, 4, SOON), b"late");
    // The kernel's clock goes on where it was, or this would be dropped as old.
    write(&slow, b"more");
    assert_eq!(read_exactly(&server, 4, SOON), b"more");

    let address = slow.local_addr().expect("a socket");
    drop((slow, server));
    rig.access(address);

    let address = never.local_addr().expect("a socket");
    read_to_end(&never, SOON);
    let access = rig.router.log().access_of(address, SOON);
    assert_eq!(access.reason, "hello_timeout", "{access:?}");
}

#[test]
fn client_that_says_nothing_gets_a_socket() {
    let rig = Rig::start(Datapath::Tc, &["--hello-timeout", "2s"]);
    warm(&rig, Family::V4);
    let client = rig.lab.connect(Family::V4);
    let address = client.local_addr().expect("a socket");
    let access = rig.router.log().access_of(address, SOON * 2);
    assert_eq!(access.reason, "hello_timeout", "{access:?}");
}

#[test]
fn unknown_name_is_answered_as_ever() {
    let rig = Rig::start(Datapath::Tc, &[]);
    warm(&rig, Family::V4);
    let before = taken(&rig);
    let client = rig.lab.connect(Family::V4);
    write(&client, &hello("other.example.com"));
    let (answer, end) = read_to_end(&client, SOON);
    assert_eq!(answer[..], [0x15, 3, 3, 0, 2, 2, 112], "unrecognized_name");
    assert_eq!(end, End::Fin);
    assert!(taken(&rig) > before, "it was taken first");
    let address = client.local_addr().expect("a socket");
    let access = rig.router.log().access_of(address, SOON);
    assert_eq!(access.reason, "unknown_host", "{access:?}");
}

/// What is no TLS at all, or more than a packet that is taken may be.
#[test]
fn others_than_hellos_get_what_they_always_got() {
    let rig = Rig::start(Datapath::Tc, &[]);
    for (bytes, reason) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "not_tls"),
        (vec![0x16; 60_000], "not_tls"),
    ] {
        warm(&rig, Family::V4);
        let client = rig.lab.connect(Family::V4);
        // It may be reset while it is still writing.
        let _ = (&client).write_all(&bytes);
        let address = client.local_addr().expect("a socket");
        let access = rig.router.log().access_of(address, SOON);
        assert_eq!(access.reason, reason, "{access:?}");
    }
}

/// The endpoint that was known does not answer any more, or says no: another one does.
#[rstest]
#[case::refuses(true)]
#[case::is_silent(false)]
fn endpoint_that_is_gone_is_passed_over(#[case] refuses: bool) {
    let lab = Lab::new(2);
    let listeners = [lab.listen(0), lab.listen(1)];
    Site::new()
        .route(HOST, "one")
        .service("one", [lab.endpoint(0), lab.endpoint(1)])
        .write_to(&lab.manifests());
    let router = lab.start(Datapath::Tc, &[]);
    let serve = |listeners: &[TcpListener]| loop {
        let found = listeners
            .iter()
            .find_map(|listener| try_accept(listener, Duration::from_millis(50)));
        if let Some(server) = found {
            return server;
        }
    };
    let open = |listeners: &[TcpListener]| {
        let client = lab.connect(Family::V4);
        write(&client, &hello(HOST));
        let server = serve(listeners);
        write(&server, b"!");
        assert_eq!(read_exactly(&client, 1, SOON), b"!");
        client.local_addr().expect("a socket")
    };
    for _ in 0..4 {
        let address = open(&listeners);
        router.log().access_of(address, SOON);
    }
    let [gone, stays] = listeners;
    drop(gone);
    if !refuses {
        lab.net.backends[0].batch("link set eth0 down\n");
    }
    for _ in 0..4 {
        let begun = Instant::now();
        let address = open(std::slice::from_ref(&stays));
        assert!(begun.elapsed() < SOON);
        let access = router.log().access_of(address, SOON);
        assert_eq!(access.endpoint, lab.endpoint(1).to_string());
    }
}

/// A client that lacks what usual ones have gets sockets.
#[rstest]
#[case("ipv4/tcp_timestamps")]
#[case("ipv4/tcp_sack")]
#[case("ipv4/tcp_window_scaling")]
fn client_without_an_option_gets_sockets(#[case] option: &str) {
    let rig = Rig::start(Datapath::Tc, &[]);
    warm(&rig, Family::V4);
    rig.lab.net.client.sysctl(option, "0");
    let before = taken(&rig);
    let pair = greet(&rig, Family::V4, &hello(HOST));
    pair.exchange();
    assert_eq!(taken(&rig), before);
}

/// An endpoint that has lost an option meanwhile.
#[rstest]
#[case("ipv4/tcp_timestamps")]
#[case("ipv4/tcp_sack")]
#[case("ipv4/tcp_window_scaling")]
fn endpoint_that_has_lost_an_option_is_connected_by_a_socket(#[case] option: &str) {
    let rig = Rig::start(Datapath::Tc, &[]);
    warm(&rig, Family::V4);
    rig.lab.net.backends[0].sysctl(option, "0");
    let before = taken(&rig);
    let pair = greet(&rig, Family::V4, &hello(HOST));
    assert!(taken(&rig) > before);
    pair.exchange();
    let address = pair.address;
    drop(pair);
    let access = rig.router.log().access_of(address, SOON);
    assert_eq!(access.reason, "done", "{access:?}");
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
    let lab = Lab::new(1);
    let at = lab.net.endpoint(0, family, 8443);
    let endpoint = lab.net.backends[0].listen(at);
    Site::new()
        .vip(family.vip())
        .route(HOST, "one")
        .service("one", [at])
        .write_to(&lab.manifests());
    let router = lab.start(Datapath::Tc, &[]);
    let rig = Rig::of(router, endpoint, lab, Datapath::Tc);
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

/// The client sends its hello again, and the endpoint, which still waits for the end of its handshake, takes it for
/// that: since Linux 6.15 only if it echoes what was in the endpoint's SYN-ACK.
#[test]
fn hello_that_is_lost_is_sent_again_by_the_client() {
    const LOSES_THE_FIRST: &str = "
        table inet loss {
            counter lost { }
            chain input {
                type filter hook prerouting priority raw;
                tcp dport 8443 meta length > 200 numgen inc mod 1000 0 counter name lost drop
            }
        }";
    let rig = Rig::start(Datapath::Tc, &[]);
    warm(&rig, Family::V4);
    let backend = &rig.lab.net.backends[0];
    backend.output("nft", &[LOSES_THE_FIRST]);
    let before = taken(&rig);
    let pair = greet(&rig, Family::V4, &hello(HOST));
    pair.exchange();
    assert_eq!(taken(&rig) - before, 3.0, "it was opened without sockets");
    assert_eq!(counted(backend, "loss", "lost"), 1);
    let counters = backend.output("cat", &["/proc/net/netstat"]);
    let mut lines = counters.lines().filter(|line| line.starts_with("TcpExt:"));
    let mut values = || lines.next().expect("a line").split_whitespace();
    let (names, values) = (values(), values());
    let refused = names.zip(values).find(|(name, _)| *name == "TSEcrRejected");
    // Kernels before that do not count it.
    assert_eq!(refused.map_or("0", |(_, count)| count), "0");
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

#[test]
fn with_sockets_alone_nothing_is_taken() {
    let rig = Rig::start(Datapath::Tc, &["--tc-open", "sockets"]);
    for _ in 0..5 {
        warm(&rig, Family::V4);
    }
    assert_eq!(taken(&rig), 0.0);
}
