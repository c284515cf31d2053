//! Many connections at once.

use std::net::TcpStream;

use rstest::rstest;
use sni_router_tests::bulk::Pattern;
use sni_router_tests::daemon::Datapath;
use sni_router_tests::raw::{End, hello, read_exactly, read_to_end, write};
use sni_router_tests::rig::{HOST, Rig, alone};
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until};

const CONNECTIONS: usize = 2000;

/// All of them are open at the same time, each carries its own bytes both ways, twice, and each is
/// recorded.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
fn two_thousand_connections_at_once_keep_their_bytes_apart(#[case] datapath: Datapath) {
    let _alone = alone();
    let rig = Rig::start(datapath, &[]);
    let hello = hello(HOST);
    // Each connection's first bytes say which it is, whatever order the endpoint meets them in.
    let clients: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|n| {
            let client = rig.lab.connect(Family::V4);
            write(&client, &hello);
            write(&client, &n.to_be_bytes());
            client
        })
        .collect();
    let mut servers: Vec<Option<TcpStream>> = (0..CONNECTIONS).map(|_| None).collect();
    for _ in 0..CONNECTIONS {
        let server = rig.accept();
        assert_eq!(read_exactly(&server, hello.len(), SOON), hello);
        let number = read_exactly(&server, size_of::<usize>(), SOON);
        let number = usize::from_be_bytes(number.try_into().expect("eight bytes"));
        assert!(servers[number].replace(server).is_none(), "{number} twice");
    }
    let servers: Vec<TcpStream> = servers.into_iter().flatten().collect();
    assert_eq!(servers.len(), CONNECTIONS);

    for round in 0..2 {
        for (n, (client, server)) in clients.iter().zip(&servers).enumerate() {
            write(client, &payload(round, n));
            write(server, &payload(round + 2, n));
        }
        for (n, (client, server)) in clients.iter().zip(&servers).enumerate() {
            let (up, down) = (payload(round, n), payload(round + 2, n));
            assert!(read_exactly(server, up.len(), SOON) == up, "up {n}");
            assert!(read_exactly(client, down.len(), SOON) == down, "down {n}");
        }
    }

    drop(clients);
    for server in servers {
        assert_eq!(read_to_end(&server, SOON), (Vec::new(), End::Fin));
    }
    until("every connection is recorded", SOON, || {
        rig.router.log().access().len() == CONNECTIONS
    });
    let bad: Vec<_> = rig
        .router
        .log()
        .access()
        .into_iter()
        .filter(|access| access.reason != "done" || access.datapath != datapath.name())
        .collect();
    assert!(bad.is_empty(), "{} of them, first {:?}", bad.len(), bad[0]);
}

/// Some hundreds of bytes of their own.
fn payload(round: usize, n: usize) -> Vec<u8> {
    Pattern::new((round * CONNECTIONS + n) as u64).bytes(100 + n % 900)
}
