//! Clients that get a socket after all.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rstest::rstest;
use sni_router_tests::daemon::Datapath;
use sni_router_tests::raw::{End, hello, read_exactly, read_to_end, refuse, try_accept, write};
use sni_router_tests::rig::{HOST, Lab, Pair, Rig};
use sni_router_tests::site::{PORT, Site};
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until};
use socket2::{Domain, SockRef, Socket, Type};

use super::parts::queued;
use super::{counter, greet, taken, warm};

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
    refuse(gone);
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

/// What is to be sent to a client that has a socket now does not wait until it has said something again.
#[test]
fn made_socket_knows_how_much_its_client_can_take() {
    let rig = Rig::start(Datapath::Tc, &["--hello-timeout", "30s"]);
    warm(&rig, Family::V4);
    let client = rig.lab.connect(Family::V4);
    write(&client, &hello(HOST)[..50]);
    // It hears nothing from now on, so it answers nothing.
    rig.lab.net.client.batch("link set eth0 down\n");
    let address = client.local_addr().expect("a socket").to_string();
    let has_window = |line: &str| line.contains("snd_wnd:") && !line.contains("snd_wnd:0");
    until("a socket was made", SOON, || {
        let made = rig
            .lab
            .net
            .router
            .output("ss", &["-Htino", "dst", &address]);
        made.lines().any(|line| line.contains(&address)) && made.lines().any(has_window)
    });
}

/// Has an endpoint of which nothing is known yet.
const OTHER: &str = "other.example.com";

/// A router that takes clients, and where [`OTHER`] leads to.
fn start_with_other(family: Family, args: &[&str]) -> (Rig, SocketAddr) {
    let lab = Lab::new(1);
    let [at, other] = [8443, 8444].map(|port| lab.net.endpoint(0, family, port));
    let endpoint = lab.net.backends[0].listen(at);
    Site::new()
        .vip(family.vip())
        .route(HOST, "one")
        .service("one", [at])
        .route(OTHER, "other")
        .service("other", [other])
        .write_to(&lab.manifests());
    let router = lab.start(Datapath::Tc, args);
    let rig = Rig::of(router, endpoint, lab, Datapath::Tc);
    warm(&rig, family);
    (rig, other)
}

/// And so does an endpoint that is connected to for it, though nothing was known of its path.
#[rstest]
#[case::v4(Family::V4, 1500 - 20 - 20 - 12)]
#[case::v6(Family::V6, 1500 - 40 - 20 - 12)]
fn made_socket_sends_segments_as_large_as_its_client_takes(
    #[case] family: Family,
    #[case] largest: u32,
) {
    let (rig, other) = start_with_other(family, &[]);
    let other = rig.lab.net.backends[0].listen(other);
    let before = taken(&rig);
    let pair = Pair::greet(rig.lab.connect(family), &hello(OTHER), &other).answered();
    assert!(taken(&rig) > before, "its client was taken first");
    let segment = SockRef::from(&pair.server).tcp_mss().expect("TCP_MAXSEG");
    assert_eq!(segment, largest);
}

/// Or it would send that again while the endpoint is slow. Here it does not answer at all.
#[rstest]
#[case::v4(Family::V4, "1.2.3.4/32 via 192.168.10.1")]
#[case::v6(Family::V6, "fd00:53::4/128 via fd00:10::1")]
fn client_is_told_at_once_what_its_made_socket_has(#[case] family: Family, #[case] route: &str) {
    const SILENT: &str = "
        table inet silent {
            chain input { type filter hook input priority filter; tcp dport 8444 drop; }
        }";
    let (rig, _) = start_with_other(family, &["--connect-timeout", "60s"]);
    rig.lab.net.backends[0].output("nft", &[SILENT]);
    // It sends nothing again, so what it hears, it hears at once.
    let route = format!("route replace {route} rto_min 60s\n");
    rig.lab.net.client.batch(&route);
    let again = || ["TCPTimeouts", "TCPLossProbes"].map(|name| counter(&rig.lab.net.client, name));
    let (before, before_again) = (taken(&rig), again());
    let client = rig.lab.connect(family);
    write(&client, &hello(OTHER));
    until("the hello is acknowledged", SOON, || queued(&rig) == "0");
    assert!(taken(&rig) > before, "it was taken first");
    assert_eq!(again(), before_again, "it was sent again");
}

/// Also of a client for which nothing could be done, there is a record. One that has nothing to send again does not
/// wait for ever.
#[rstest]
#[case::whole(usize::MAX)]
#[case::part(50)]
fn client_whose_socket_cannot_be_made_is_reset_and_recorded(#[case] len: usize) {
    let rig = Rig::start(Datapath::Tc, &[]);
    warm(&rig, Family::V4);
    let client = rig.lab.connect(Family::V4);
    let address = client.local_addr().expect("a socket");
    let pid = rig.router.pid().to_string();
    let limit = |descriptors: &str| {
        let limit = format!("--nofile={descriptors}:");
        let set = Command::new("prlimit")
            .args(["--pid", &pid, &limit])
            .status();
        assert!(set.expect("the lab needs `prlimit`").success());
    };
    limit("3");
    let hello = hello("other.example.com");
    write(&client, &hello[..len.min(hello.len())]);
    let (answer, end) = read_to_end(&client, SOON);
    assert_eq!((answer.len(), end), (0, End::Reset));
    let access = rig.router.log().access_of(address, SOON);
    limit("1024");
    assert_eq!(access.reason, "internal", "{access:?}");
}

/// Those who say hello without a socket take places, too, and who gets none is told as ever.
#[test]
fn clients_without_sockets_take_places_of_those_who_say_hello() {
    let rig = Rig::start(Datapath::Tc, &["--max-pending-hellos", "2"]);
    let hello = hello(HOST);
    warm(&rig, Family::V4);
    let before = taken(&rig);
    let clients: Vec<_> = (0..3).map(|_| rig.lab.connect(Family::V4)).collect();
    for client in &clients {
        write(client, &hello[..50]);
    }
    let address = clients[2].local_addr().expect("a socket");
    let access = rig.router.log().access_of(address, SOON);
    assert_eq!(access.reason, "too_many_hellos", "{access:?}");
    assert!(taken(&rig) > before, "they were taken first");
    for client in &clients[..2] {
        write(client, &hello[50..]);
        let server = rig.accept();
        assert_eq!(read_exactly(&server, hello.len(), SOON), hello);
    }
    let pending = || rig.router.metric("sni_router_hellos_pending", &[]);
    until("all places were given back", SOON, || pending() == 0.0);
}

/// Its record says so, and that it is there again is another one.
#[test]
fn client_that_leaves_before_its_endpoint_answers_has_a_record() {
    let rig = Rig::start(Datapath::Tc, &["--connect-timeout", "2s"]);
    warm(&rig, Family::V4);
    rig.lab.net.backends[0].batch("link set eth0 down\n");
    let connect = |from: SocketAddr| {
        rig.lab.net.client.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_reuse_address(true).expect("set SO_REUSEADDR");
            socket.bind(&from.into()).expect("a free port");
            let to = SocketAddr::new(Family::V4.vip(), PORT);
            socket.connect(&to.into()).expect("connect");
            TcpStream::from(socket)
        })
    };
    let before = taken(&rig);
    let first = connect(([0, 0, 0, 0], 0).into());
    let address = first.local_addr().expect("a socket");
    write(&first, &hello(HOST));
    until("it was taken", SOON, || taken(&rig) >= before + 2.0);
    SockRef::from(&first)
        .set_linger(Some(Duration::ZERO))
        .expect("set SO_LINGER");
    drop(first);
    let second = connect(address);
    write(&second, &hello(HOST));
    let log = rig.router.log();
    let reasons = [log.access_of(address, SOON), log.access_of(address, SOON)].map(|it| it.reason);
    assert_eq!(reasons, ["client_gone", "connect_failed"]);
}
