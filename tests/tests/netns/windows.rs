//! Peers with small windows, behind a router that scales its own by as much as there is.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use rstest::rstest;
use sni_router_tests::bulk::{Pattern, receive, send};
use sni_router_tests::daemon::{Datapath, Router};
use sni_router_tests::position::Windows;
use sni_router_tests::raw::{End, hello, read_exactly};
use sni_router_tests::rig::{HOST, Lab, Pair, Rig};
use sni_router_tests::site::PORT;
use sni_router_tests::topology::Family;
use sni_router_tests::wait::SOON;
use socket2::{Domain, Socket, Type};

/// Bytes that a side has room for.
const SMALL: usize = 4096;

/// More than there is room for anywhere.
const LEN: u64 = 1 << 20;

/// A router whose host has so much memory for sockets that its peers' windows are told in units of 16 KiB.
struct Vast {
    router: Router,
    lab: Lab,
}

impl Vast {
    fn start() -> Self {
        let lab = Lab::new(1);
        let host = &lab.net.router;
        host.sysctl("ipv4/tcp_rmem", "4096 131072 1073741824");
        Rig::site(&lab).write_to(&lab.manifests());
        let router = lab.start_with(&["--datapath", "auto", "--claim-vips"], &[]);
        Self { router, lab }
    }

    /// Sends a lot from the endpoint to a client, or the other way, and tells who carried it and why.
    #[track_caller]
    fn transfer(&self, client: TcpStream, endpoint: &TcpListener, is_up: bool) -> [String; 2] {
        let pair = Pair::greet(client, &hello(HOST), endpoint);
        let (from, to) = match is_up {
            true => (&pair.client, &pair.server),
            false => (&pair.server, &pair.client),
        };
        pass_on(from, to);
        let address = pair.address;
        drop(pair);
        let access = self.router.log().access_of(address, SOON);
        assert_eq!(access.reason, "done", "{access:?}");
        [access.datapath, access.declined]
    }

    fn small_endpoint(&self) -> TcpListener {
        let at = self.lab.endpoint(0);
        let endpoint = self.lab.net.backends[0].run(|| {
            with_room(at, SMALL, |socket| {
                socket.set_reuse_address(true)?;
                socket.bind(&at.into())?;
                socket.listen(16)
            })
        });
        endpoint.expect("listen").into()
    }
}

/// A client that has room for so much.
#[track_caller]
fn client_with_room(lab: &Lab, bytes: usize) -> TcpStream {
    let to = SocketAddr::new(Family::V4.vip(), PORT);
    let connect = |socket: &Socket| socket.connect_timeout(&to.into(), SOON);
    let client = lab.net.client.run(|| with_room(to, bytes, connect));
    client.expect("connect").into()
}

/// A socket with room for so much, for this address.
fn with_room(
    at: SocketAddr,
    bytes: usize,
    set_up: impl FnOnce(&Socket) -> io::Result<()>,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    socket.set_recv_buffer_size(bytes)?;
    set_up(&socket)?;
    Ok(socket)
}

/// An endpoint whose window would be nothing in such units is served by sockets; nobody else is.
#[test]
fn peers_with_small_windows_receive_what_is_sent() {
    let host = Vast::start();
    let carried = ["tc", ""].map(str::to_owned);
    let declined = ["userspace", "small_window"].map(str::to_owned);
    let endpoint = host.lab.listen(0);
    let usual = || host.lab.connect(Family::V4);
    let small = || client_with_room(&host.lab, SMALL);
    // A socket for such a client announces little, in small units.
    assert_eq!(host.transfer(small(), &endpoint, false), carried);
    // By sockets first, and then without.
    for _ in 0..3 {
        assert_eq!(host.transfer(usual(), &endpoint, true), carried);
        assert_eq!(host.transfer(usual(), &endpoint, false), carried);
    }
    // Without sockets the endpoint is told in the client's own units.
    assert_eq!(host.transfer(small(), &endpoint, false), carried);
    drop(endpoint);
    let endpoint = host.small_endpoint();
    for _ in 0..3 {
        assert_eq!(host.transfer(usual(), &endpoint, true), declined);
    }
}

/// Before it hears from the client, an endpoint is told by a socket of this host what it may send at once.
#[rstest]
#[case::little(SMALL, "1")]
#[case::little_without_scaling(SMALL, "0")]
#[case::some_without_scaling(20_000, "0")]
#[case::some(20_000, "1")]
fn endpoint_never_hears_of_more_room_than_its_client_has(
    #[case] bytes: usize,
    #[case] scaling: &str,
) {
    let rig = Rig::start(Datapath::Tc, &["--tc-open", "sockets"]);
    let client = &rig.lab.net.client;
    client.sysctl("ipv4/tcp_window_scaling", scaling);
    let client = client_with_room(&rig.lab, bytes);
    let room = Windows::of(&client).own;
    let pair = Pair::greet(client, &hello(HOST), &rig.endpoint);
    let told = Windows::of(&pair.server).peers_most;
    assert!(told > 0 && told <= room, "{told} of {room}");
    for (from, to) in [(&pair.server, &pair.client), (&pair.client, &pair.server)] {
        pass_on(from, to);
    }
    let address = pair.address;
    drop(pair);
    let access = rig.access(address);
    assert_eq!(
        (&*access.datapath, &*access.declined),
        ("tc", ""),
        "{access:?}"
    );
}

/// Who is carried by sockets gets what it has room for; its endpoint sends to this host. Newer kernels see to that with
/// the first full segment, whatever the router does.
#[test]
fn endpoint_hears_of_this_hosts_room_when_its_client_was_declined() {
    let rig = Rig::start(Datapath::Tc, &["--tc-open", "sockets"]);
    rig.lab.net.client.sysctl("ipv4/tcp_timestamps", "0");
    let client = client_with_room(&rig.lab, SMALL);
    let room = Windows::of(&client).own;
    let pair = Pair::greet(client, &hello(HOST), &rig.endpoint);
    pass_on(&pair.server, &pair.client);
    let told = Windows::of(&pair.server).peers_most;
    assert!(told > 4 * room, "{told} of {room}");
    let address = pair.address;
    drop(pair);
    let access = rig.access_unless(address, &["options_differ"]);
    assert_eq!(access.declined, "options_differ");
}

/// Sends a lot, and an end.
#[track_caller]
fn pass_on(from: &TcpStream, to: &TcpStream) {
    // Who receives nothing, fails; who waits for that must not wait for ever.
    from.set_write_timeout(Some(SOON)).expect("set a timeout");
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let sent = send(from, Pattern::new(1), LEN).expect("send");
            from.shutdown(Shutdown::Write).expect("shutdown");
            sent
        });
        let received = receive(to, SOON);
        assert_eq!(received, (sender.join().expect("the sender"), End::Fin));
    });
}

/// Who scales its windows and has room is not limited to what it has room for at first.
#[test]
fn endpoint_hears_of_windows_that_grow() {
    let rig = Rig::start(Datapath::Tc, &["--tc-open", "sockets"]);
    let pair = rig.open();
    for _ in 0..20 {
        let sent = thread::scope(|scope| {
            let sender = scope.spawn(|| send(&pair.server, Pattern::new(1), LEN).expect("send"));
            let length = usize::try_from(LEN).expect("it fits");
            read_exactly(&pair.client, length, SOON);
            sender.join().expect("the sender")
        });
        assert_eq!(sent.len, LEN);
    }
    let told = Windows::of(&pair.server).peers_most;
    assert!(told > 65_535, "{told}");
    let address = pair.address;
    drop(pair);
    rig.access(address);
}
