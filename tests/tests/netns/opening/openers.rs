//! Clients that come together, of which several threads each open a share.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use rustix::process::Signal;
use sni_router_tests::position::Position;
use sni_router_tests::raw::reset;

use super::*;

/// Begins to say hello by all these clients. The router stands still then, and has all of that before it when it goes
/// on.
fn begin_together(rig: &Rig, clients: &[TcpStream], hello: &[u8]) {
    rig.router.signal(Signal::STOP);
    for client in clients {
        client.set_nodelay(true).expect("set TCP_NODELAY");
        write(client, &hello[..BEGINNING]);
    }
}

/// Says the rest, and each its number behind it.
fn end_together(clients: &[TcpStream], hello: &[u8]) {
    for (number, client) in (0..).zip(clients) {
        write(client, &hello[BEGINNING..]);
        write(client, &[number]);
    }
}

/// Accepts as many as there are clients, and has each client hear its number from the one that it is connected to.
#[track_caller]
fn answer(rig: &Rig, clients: &[TcpStream], hello: &[u8]) -> Vec<TcpStream> {
    let answered = |_| {
        let server = rig.accept();
        assert_eq!(read_exactly(&server, hello.len(), SOON), hello);
        write(&server, &read_exactly(&server, 1, SOON));
        server
    };
    let servers = clients.iter().map(answered).collect();
    for (number, client) in (0..).zip(clients) {
        assert_eq!(read_exactly(client, 1, SOON), [number]);
    }
    servers
}

/// The openers of these connections, of so many, by the numbers of their SYNs; each has received so many bytes.
fn openers(servers: &[TcpStream], received: usize, count: u32) -> BTreeSet<u32> {
    let syn = |server| {
        let next = Position::of(server).ack;
        next.wrapping_sub(received as u32 + 1)
    };
    servers.iter().map(|server| syn(server) % count).collect()
}

/// A rig, clients that have not said hello yet, and a hello of several segments.
fn crowd(args: &[&str]) -> (Rig, Vec<TcpStream>, Vec<u8>) {
    let rig = Rig::start(Datapath::Tc, args);
    let hello = Hello {
        post_quantum: true,
        ..Hello::default()
    }
    .bytes(Some(HOST));
    warm(&rig, Family::V4);
    let clients = many(&rig);
    (rig, clients, hello)
}

fn many(rig: &Rig) -> Vec<TcpStream> {
    (0..CLIENTS).map(|_| rig.lab.connect(Family::V4)).collect()
}

#[rstest]
#[case::alone("1", 1)]
#[case::two("2", 2)]
#[case::four("8", 4)]
fn clients_that_come_together_are_shared_out(#[case] workers: &str, #[case] count: u32) {
    let (rig, mut clients, hello) = crowd(&["--workers", workers]);
    let connects = || counter(&rig.lab.net.router, "ActiveOpens").expect("of TCP");
    let mut servers = Vec::new();
    // Where all of this takes a second, because of what else the machine does, some need sockets.
    let are_all_without_sockets = (0..5).any(|_| {
        let before = connects();
        begin_together(&rig, &clients, &hello);
        end_together(&clients, &hello);
        rig.router.signal(Signal::CONT);
        servers = answer(&rig, &clients, &hello);
        let is_done = connects() == before;
        if !is_done {
            warm(&rig, Family::V4);
            clients = many(&rig);
        }
        is_done
    });
    assert!(are_all_without_sockets, "sockets were connected");
    let openers = openers(&servers, hello.len() + 1, count);
    assert_eq!(openers, (0..count).collect());
    let active = || rig.router.metric("sni_router_connections_active", &[]);
    until("all are counted", SOON, || active() == f64::from(CLIENTS));
}

/// Whoever has heard of the former connection gives it up later.
#[test]
fn client_that_begins_anew_is_not_disturbed_by_what_another_opener_knows() {
    let (rig, mut clients, hello) = crowd(&["--workers", "2"]);
    let pending = || rig.router.metric("sni_router_hellos_pending", &[]);
    let open = || sockets(&rig).matches("ESTAB").count();
    // All of it has to be done within a second, for which a slow machine needs more attempts, and so do more clients.
    let has_met = (0..5).any(|_| {
        begin_together(&rig, &clients, &hello);
        rig.router.signal(Signal::CONT);
        until("all are gathered", SOON, || pending() == f64::from(CLIENTS));
        let address = |client: &TcpStream| client.local_addr().expect("a socket");
        let addresses: Vec<_> = clients.iter().take(8).map(address).collect();
        clients.drain(..).for_each(reset);
        // One after the other: few at a time are the first opener's.
        let pairs = addresses.into_iter().filter_map(|address| {
            let client = connect_from(&rig, address)?;
            Some(Pair::greet(client, &hello, &rig.endpoint).answered())
        });
        let pairs: Vec<_> = pairs.collect();
        assert!(!pairs.is_empty(), "no port was free");
        until("those with sockets are handed over", SOON, || open() == 0);
        let is_known_to_another = pending() > 0.0;
        until("the former ones are given up", SOON, || {
            assert_eq!(open(), 0, "a socket was made of what is over");
            pending() == 0.0
        });
        for pair in &pairs {
            pair.exchange();
        }
        if !is_known_to_another {
            warm(&rig, Family::V4);
            clients = many(&rig);
        }
        is_known_to_another
    });
    assert!(has_met, "no other opener knew of them");
}

/// `None` where something of the client's host still has the port.
fn connect_from(rig: &Rig, from: SocketAddr) -> Option<TcpStream> {
    rig.lab.net.client.run(|| {
        let socket =
            Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
        socket.set_reuse_address(true).expect("SO_REUSEADDR");
        if let Err(error) = socket.bind(&from.into()) {
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
            return None;
        }
        let to = SocketAddr::new(Family::V4.vip(), PORT);
        socket.connect(&to.into()).expect("connect");
        Some(socket.into())
    })
}

/// They get sockets where the router ends in that moment, whoever has them.
#[rstest]
#[case::alone("1")]
#[case::two("2")]
#[case::four("8")]
fn clients_of_all_openers_are_served_when_the_router_stops(#[case] workers: &str) {
    let (mut rig, clients, hello) = crowd(&["--workers", workers]);
    begin_together(&rig, &clients, &hello);
    rig.router.signal(Signal::TERM);
    rig.router.signal(Signal::CONT);
    let accepted = || sockets(&rig).matches("ESTAB").count();
    until("all have a socket", SOON, || accepted() >= clients.len());
    end_together(&clients, &hello);
    drop(answer(&rig, &clients, &hello));
    drop(clients);
    let status = rig.router.wait_exit(SOON);
    assert!(status.success(), "{status}");
}

/// As many as are read from the ring at a time.
const CLIENTS: u8 = 64;

/// Bytes of a hello in its first packet.
const BEGINNING: usize = 500;
