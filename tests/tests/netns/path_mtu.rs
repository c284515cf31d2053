//! ICMP errors about packets that `tc` has passed on, end to end: real stacks make them, and real
//! stacks have to take them for errors about their own packets.

use std::io::{self, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use rstest::rstest;
use sni_router_tests::bulk::{Pattern, receive, send};
use sni_router_tests::daemon::{Datapath, Router};
use sni_router_tests::netns::{Namespace, unique_name};
use sni_router_tests::raw::{End, hello, read_exactly, write};
use sni_router_tests::rig::{BACKEND_PORT, HOST, Lab, Pair};
use sni_router_tests::site::Site;
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until_some};
use socket2::SockRef;

const BYTES: u64 = 4 << 20;

/// Far more than a loaded machine needs. A stack that is told nothing sends the same again for minutes.
const LIMIT: Duration = Duration::from_secs(60);

/// A lab in which the endpoint is behind the backend, which forwards:
///
/// ```text
///   client ── router ── backend ──────────── far
///                        .1  192.168.30.0/24  .2
/// ```
struct Path {
    router: Router,
    listener: TcpListener,
    lab: Lab,
    far: Namespace,
}

impl Path {
    fn new(family: Family) -> Self {
        let lab = Lab::new(1);
        let far = Namespace::create(&format!("{}-far", unique_name()));
        let backend = &lab.net.backends[0];
        backend.sysctl("ipv4/ip_forward", "1");
        backend.sysctl("ipv6/conf/all/forwarding", "1");
        backend.batch(&format!(
            "link add far type veth peer name eth0 netns {}\n\
             addr add 192.168.30.1/24 dev far\n\
             addr add fd00:30::1/64 dev far nodad\n\
             link set far up\n",
            far.name()
        ));
        far.batch(
            "addr add 192.168.30.2/24 dev eth0\n\
             addr add fd00:30::2/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via 192.168.30.1\n\
             route add ::/0 via fd00:30::1\n",
        );
        lab.net.router.batch(
            "route add 192.168.30.0/24 via 192.168.20.2\n\
             route add fd00:30::/64 via fd00:20::2\n",
        );
        let ip = match family {
            Family::V4 => "192.168.30.2",
            Family::V6 => "fd00:30::2",
        };
        let endpoint = SocketAddr::new(ip.parse().expect("an address"), BACKEND_PORT);
        let listener = far.listen(endpoint);
        let (router, listener) = start(&lab, endpoint, listener);
        Self {
            router,
            listener,
            lab,
            far,
        }
    }

    /// Makes the last link take so many bytes only.
    fn narrow(&self, mtu: u32) {
        self.lab.net.backends[0].batch(&format!("link set far mtu {mtu}\n"));
        // Or what it sends would be dropped by the other end's driver, without a word.
        self.far.batch(&format!("link set eth0 mtu {mtu}\n"));
    }

    /// Has the backend refuse to forward anything to the endpoint.
    fn cut(&self) {
        self.lab.net.backends[0].batch(
            "route add unreachable 192.168.30.2/32\n\
             route add unreachable fd00:30::2/128\n",
        );
    }
}

fn start(lab: &Lab, endpoint: SocketAddr, listener: TcpListener) -> (Router, TcpListener) {
    Site::new()
        .route(HOST, "one")
        .service("one", [endpoint])
        .write_to(&lab.manifests());
    (lab.start(Datapath::Tc, &[]), listener)
}

/// A connection that `tc` carries, with a byte each way.
fn open(lab: &Lab, family: Family, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let pair = Pair::greet(lab.connect(family), &hello(HOST), listener).answered();
    (pair.client, pair.server)
}

/// Sends bytes that end with FIN, and checks that they arrive.
fn transfer(from: &TcpStream, to: &TcpStream, seed: u64) {
    thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let sum = send(from, Pattern::new(seed), BYTES).expect("send");
            from.shutdown(Shutdown::Write).expect("shutdown");
            sum
        });
        let (received, end) = receive(to, LIMIT);
        assert_eq!(end, End::Fin);
        assert_eq!(sender.join().expect("the sender"), received);
    });
}

/// How often the kernel programs have counted this.
#[track_caller]
fn count(router: &Router, name: &str) -> u64 {
    let status = router.status();
    let count = status["kernel"][name].as_u64();
    count.unwrap_or_else(|| panic!("no {name} in {status}"))
}

/// Writes until the connection fails.
#[track_caller]
fn error_of(mut client: &TcpStream) -> io::Error {
    until_some("the connection fails", LIMIT, || {
        let written = client.write_all(b"anybody there?");
        written
            .err()
            .or_else(|| client.take_error().expect("a socket"))
    })
}

/// A connection gives up soon, and then tells what ICMP has said, or else that it has timed out.
fn give_up_soon(client: &TcpStream) {
    let socket = SockRef::from(client);
    let limit = Some(Duration::from_secs(1));
    socket
        .set_tcp_user_timeout(limit)
        .expect("TCP_USER_TIMEOUT");
}

#[track_caller]
fn assert_unreachable(error: &io::Error) {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable};
    let kind = error.kind();
    assert!(
        [HostUnreachable, NetworkUnreachable].contains(&kind),
        "{error}"
    );
}

#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn path_that_gets_narrower_in_mid_transfer_goes_on(#[case] family: Family) {
    let path = Path::new(family);
    let (client, server) = open(&path.lab, family, &path.listener);
    let first = Pattern::new(1).bytes(1 << 20);
    thread::scope(|scope| {
        scope.spawn(|| write(&client, &first));
        assert!(read_exactly(&server, first.len(), SOON) == first);
    });
    path.narrow(1300);
    transfer(&client, &server, 2);
    transfer(&server, &client, 3);
    let translated = count(&path.router, "tc_translated");
    assert!(translated > 0, "no error was translated");
    let address = client.local_addr().expect("a connected socket");
    let access = path.router.log().access_of(address, SOON);
    assert_eq!(
        (&*access.datapath, &*access.reason),
        ("tc", "done"),
        "{access:?}"
    );
}

#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn unreachable_endpoint_is_told_to_the_client(#[case] family: Family) {
    let path = Path::new(family);
    let (client, _server) = open(&path.lab, family, &path.listener);
    give_up_soon(&client);
    path.cut();
    assert_unreachable(&error_of(&client));
}

#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn segments_of_a_client_with_a_wider_link_are_answered(#[case] family: Family) {
    let lab = Lab::new(1);
    lab.net.client.batch("link set eth0 mtu 9000\n");
    lab.net.router.batch("link set client mtu 9000\n");
    let endpoint = lab.net.endpoint(0, family, BACKEND_PORT);
    let listener = lab.net.backends[0].listen(endpoint);
    let (router, listener) = start(&lab, endpoint, listener);
    let (client, server) = open(&lab, family, &listener);
    transfer(&client, &server, 4);
    transfer(&server, &client, 5);
    assert!(count(&router, "tc_too_big") > 0, "none was too large");
    assert!(count(&router, "tc_answered") > 0, "none was answered");
    let address = client.local_addr().expect("a connected socket");
    let access = router.log().access_of(address, SOON);
    assert_eq!(
        (&*access.datapath, &*access.reason),
        ("tc", "done"),
        "{access:?}"
    );
}

#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn packets_that_have_come_too_far_are_told_to_the_client(#[case] family: Family) {
    let lab = Lab::new(1);
    let endpoint = lab.net.endpoint(0, family, BACKEND_PORT);
    let listener = lab.net.backends[0].listen(endpoint);
    let (router, listener) = start(&lab, endpoint, listener);
    let (client, _server) = open(&lab, family, &listener);
    give_up_soon(&client);
    let socket = SockRef::from(&client);
    let set = match family {
        Family::V4 => socket.set_ttl_v4(1),
        Family::V6 => socket.set_unicast_hops_v6(1),
    };
    set.expect("set the TTL");
    assert_unreachable(&error_of(&client));
    assert!(count(&router, "tc_ttl_exceeded") > 0);
}

/// As where the ends of a tunnel clamp the MSS, since what is too large vanishes there. By sockets first, and then without.
#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn client_sends_no_larger_segments_than_its_endpoint_takes(#[case] family: Family) {
    const SEGMENT: u32 = 1240;
    let path = Path::new(family);
    path.far.batch(&format!(
        "route change default via 192.168.30.1 advmss {SEGMENT}\n\
         route change ::/0 via fd00:30::1 advmss {SEGMENT}\n"
    ));
    let mut seed = 0;
    // Without sockets only where another one was handed over a moment ago.
    while count(&path.router, "tc_taken") == 0 {
        seed += 1;
        assert!(seed < 20, "none without sockets");
        if seed > 1 {
            open(&path.lab, family, &path.listener);
        }
        let (client, server) = open(&path.lab, family, &path.listener);
        transfer(&client, &server, seed);
        let sent = SockRef::from(&client).tcp_mss().expect("TCP_MAXSEG");
        assert!(sent <= SEGMENT, "{sent}");
        // The next one must not know it by this one's.
        for family in ["-4", "-6"] {
            let client = &path.lab.net.client;
            client.ip_output(&[family, "route", "flush", "cache"]);
        }
    }
}
