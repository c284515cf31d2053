//! The ports that `tc` uses towards endpoints: whose they are, and what happens when they run out.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rstest::rstest;
use sni_router_tests::access::Access;
use sni_router_tests::bpffs::Bpffs;
use sni_router_tests::daemon::{Datapath, Launch, Router};
use sni_router_tests::raw::{End, accept, hello, read_exactly, read_to_end, write};
use sni_router_tests::rig::{BACKEND_PORT, HOST, Lab, Rig, alone};
use sni_router_tests::server::Server;
use sni_router_tests::site::Site;
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until};

/// What a start may take that loads programs, on a machine that is busy with other tests.
const START: Duration = Duration::from_secs(60);

/// Settings of the kernel, below `/proc/sys/net`.
const CHOSEN: &str = "ipv4/ip_local_port_range";
const RESERVED: &str = "ipv4/ip_local_reserved_ports";

const DECLINES: &str = "sni_router_datapath_declines_total";

/// Clients of the router and clients on its host, and connections of each of the former.
const CLIENTS: usize = 6;
const NEIGHBOURS: usize = 4;
const EACH: usize = 500;

fn lab() -> Lab {
    let lab = Lab::new(1);
    Rig::site(&lab).write_to(&lab.manifests());
    lab
}

#[test]
fn ports_that_the_kernel_chooses_from_keep_tc_from_starting_and_the_flag_is_named() {
    let lab = lab();
    lab.net.router.sysctl(CHOSEN, "20000 60999");
    let router = refused(&lab, &["--tc-ports", "10000-29999"]);
    let said = router.log().wait_for_line("--reserve-ports", SOON);
    for word in ["10000-29999", "port 20000", "20000-60999"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(lab.net.router.read_sysctl(RESERVED), "", "nothing is set");
}

#[test]
fn ports_are_reserved_beside_those_that_are_reserved_already() {
    let lab = lab();
    let router = &lab.net.router;
    router.sysctl(CHOSEN, "1024 65535");
    router.sysctl(RESERVED, "8080,9000-9100,29000-30000");
    let args = ["--tc-ports", "10000-29999", "--reserve-ports"];
    let mut started = lab.start(Datapath::Tc, &args);
    let expected = "8080,9000-9100,10000-30000";
    assert_eq!(router.read_sysctl(RESERVED), expected);
    started.terminate(SOON);

    // They are there, so the flag is not needed any more.
    let listener = lab.listen(0);
    let started = lab.start(Datapath::Tc, &args[..2]);
    assert_eq!(serve_one(&lab, &started, &listener).datapath, "tc");
    assert_eq!(router.read_sysctl(RESERVED), expected);
}

#[test]
fn connection_without_a_port_is_carried_by_another_datapath_and_ports_come_back() {
    let other = "other.example.com";
    let lab = Lab::new(2);
    Site::new()
        .route(HOST, "one")
        .service("one", [lab.endpoint(0)])
        .route(other, "other")
        .service("other", [lab.endpoint(1)])
        .write_to(&lab.manifests());
    let listeners = [lab.listen(0), lab.listen(1)];
    let router = lab.start(Datapath::Tc, &["--tc-ports", "10000-10009"]);
    let range = 10_000..=10_009;

    let running: Vec<_> = (0..10).map(|_| open(&lab, HOST, &listeners[0])).collect();
    let mut ports: Vec<_> = running
        .iter()
        .map(|(_, server)| peer_port(server))
        .collect();
    ports.sort_unstable();
    assert!(ports.iter().copied().eq(range.clone()), "{ports:?}");
    assert_eq!(router.metric(DECLINES, &[("reason", "no_port")]), 0.0);

    let (client, server) = open(&lab, HOST, &listeners[0]);
    assert!(!range.contains(&peer_port(&server)));
    let access = end(&router, client, server);
    assert_eq!(access.declined, "no_port", "{access:?}");
    assert_eq!(access.datapath, "userspace", "{access:?}");
    assert_eq!(router.metric(DECLINES, &[("reason", "no_port")]), 1.0);

    // They are counted by endpoint.
    let (client, server) = open(&lab, other, &listeners[1]);
    assert!(range.contains(&peer_port(&server)));
    assert_eq!(end(&router, client, server).datapath, "tc");

    for (client, server) in running {
        let access = end(&router, client, server);
        assert_eq!(access.datapath, "tc", "{access:?}");
    }
    until("a port has rested", SOON, || {
        serve_one(&lab, &router, &listeners[0]).datapath == "tc"
    });
}

#[test]
fn each_source_address_has_all_the_ports_and_keeps_them_over_a_restart() {
    let lab = lab();
    let sources = [101, 102].map(|last| {
        let mut endpoint = lab.endpoint(0);
        let IpAddr::V4(address) = endpoint.ip() else {
            unreachable!("the lab's endpoints are IPv4")
        };
        let [a, b, c, _] = address.octets();
        endpoint.set_ip(Ipv4Addr::new(a, b, c, last).into());
        endpoint.ip()
    });
    let [one, other] = sources.map(|source| source.to_string());
    let router = &lab.net.router;
    let route = router.ip_output(&["-o", "route", "get", &lab.endpoint(0).ip().to_string()]);
    let mut words = route.split_whitespace().skip_while(|word| *word != "dev");
    let device = words.nth(1).expect("a route to the endpoint");
    let add = |source: &str| format!("addr add {source}/24 dev {device}\n");
    router.batch(&(add(&one) + &add(&other)));
    let listener = lab.listen(0);
    let pins = Bpffs::mount();
    let args = [
        "--tc-ports",
        "10000-10003",
        "--tc-source",
        &one,
        "--tc-source",
        &other,
        "--pin-dir",
        pins.dir(),
    ];
    let mut router = lab.start(Datapath::Tc, &args);
    let before = router.descriptors();
    let mut running: Vec<_> = (0..6).map(|_| open(&lab, HOST, &listener)).collect();
    until("the router has let go of its sockets", SOON, || {
        router.descriptors() <= before
    });
    router.kill();
    let router = lab.start(Datapath::Tc, &args);
    running.extend((0..2).map(|_| open(&lab, HOST, &listener)));
    let peers: BTreeSet<_> = running
        .iter()
        .map(|(_, server)| server.peer_addr().expect("a connected socket"))
        .collect();
    let all = |source: IpAddr| (10_000..=10_003).map(move |port| SocketAddr::new(source, port));
    let expected = sources.into_iter().flat_map(all);
    assert_eq!(peers, expected.collect());
    let (client, server) = open(&lab, HOST, &listener);
    let access = end(&router, client, server);
    assert_eq!(access.declined, "no_port", "{access:?}");
    for (client, server) in running {
        let access = end(&router, client, server);
        assert_eq!(access.datapath, "tc", "{access:?}");
    }
}

#[rstest]
#[case::of_somebody_else("192.0.2.77")]
#[case::that_only_means_this_host("127.0.0.1")]
#[case::that_is_none("0.0.0.0")]
fn source_address_that_cannot_be_one_keeps_tc_from_starting(#[case] source: &str) {
    let lab = lab();
    let router = refused(&lab, &["--tc-source", source]);
    let flag = format!("--tc-source {source}");
    router.log().wait_for_line(&flag, SOON);
}

/// The kernel's range surrounds ours, and the host itself is a client of the same endpoint all the
/// while.
#[test]
fn connections_of_the_host_to_the_same_endpoint_are_untouched() {
    let _alone = alone();
    let lab = lab();
    let range = 10_000..=11_999;
    lab.net.router.sysctl(CHOSEN, "9000 13000");
    let args = ["--tc-ports", "10000-11999", "--reserve-ports"];
    let router = lab.start(Datapath::Tc, &args);
    let hello = hello(HOST);
    let length = hello.len();
    let server = Server::spawn(lab.listen(0), move |stream| {
        read_exactly(&stream, length, SOON);
        let request = read_exactly(&stream, 4, SOON);
        write(&stream, &request);
        // Whoever ends first keeps the port for a minute; so no client runs out of them.
        stream.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(read_to_end(&stream, SOON), (Vec::new(), End::Fin));
    });
    let ask = |stream: &TcpStream, n: usize| {
        let request = (n as u32).to_be_bytes();
        write(stream, &hello);
        write(stream, &request);
        assert_eq!(read_to_end(stream, SOON), (request.to_vec(), End::Fin));
    };
    let (is_over, own) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let neighbour = || {
            while !is_over.load(Ordering::Relaxed) {
                let n = own.fetch_add(1, Ordering::Relaxed);
                let stream = lab.net.router.connect(lab.endpoint(0), SOON);
                let stream = stream.unwrap_or_else(|e| panic!("own connection {n}: {e}"));
                let port = stream.local_addr().expect("a socket").port();
                assert!(!range.contains(&port), "{port}");
                ask(&stream, n);
            }
        };
        for _ in 0..NEIGHBOURS {
            scope.spawn(neighbour);
        }
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| (0..EACH).for_each(|n| ask(&lab.connect(Family::V4), n))))
            .collect();
        let ended: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok), "a client failed");
    });
    server.check();

    let own = own.into_inner();
    assert!(own > EACH, "the host has made only {own} connections");
    until("every connection is recorded", SOON, || {
        router.log().access().len() == CLIENTS * EACH
    });
    for access in router.log().access() {
        assert_eq!(
            (&*access.datapath, &*access.reason),
            ("tc", "done"),
            "{access:?}"
        );
    }
}

/// A router that has refused to start `tc` with these flags.
#[track_caller]
fn refused(lab: &Lab, args: &[&str]) -> Router {
    let launch = Launch {
        manifests: Some(&lab.manifests()),
        admin: &lab.admin(),
        args: &[&["--datapath", "tc", "--pin-dir", "none"], args].concat(),
        without: &[],
    };
    let mut router = Router::launch(&lab.net.router, &launch);
    let status = router.wait_exit(START);
    assert!(!status.success(), "{status}");
    router
}

/// Opens a connection that its datapath has taken over.
#[track_caller]
fn open(lab: &Lab, host: &str, at: &TcpListener) -> (TcpStream, TcpStream) {
    let client = lab.connect(Family::V4);
    let hello = hello(host);
    write(&client, &hello);
    let server = accept(at, SOON);
    assert_eq!(read_exactly(&server, hello.len(), SOON), hello);
    write(&server, b"!");
    assert_eq!(read_exactly(&client, 1, SOON), b"!");
    (client, server)
}

/// Ends it and gives its record.
#[track_caller]
fn end(router: &Router, client: TcpStream, server: TcpStream) -> Access {
    let address = client.local_addr().expect("a socket");
    drop(client);
    assert_eq!(read_to_end(&server, SOON), (Vec::new(), End::Fin));
    drop(server);
    router.log().access_of(address, SOON)
}

#[track_caller]
fn serve_one(lab: &Lab, router: &Router, at: &TcpListener) -> Access {
    let (client, server) = open(lab, HOST, at);
    end(router, client, server)
}

fn peer_port(server: &TcpStream) -> u16 {
    let peer = server.peer_addr().expect("a connected socket");
    assert_ne!(peer.port(), BACKEND_PORT);
    peer.port()
}
