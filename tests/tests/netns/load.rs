//! Many connections at once.

use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use rstest::rstest;
use sni_router_tests::bulk::{self, Pattern};
use sni_router_tests::daemon::Datapath;
use sni_router_tests::raw::{End, hello, read_exactly, read_to_end, write};
use sni_router_tests::rig::{HOST, Pair, Rig, alone};
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until};

const CONNECTIONS: usize = 2000;

/// Descriptors the router may keep for later connections, such as a pool of pipes a worker.
const POOLED: usize = 400;

/// All of them are open at the same time, each carries its own bytes both ways, twice, and each is
/// recorded.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn two_thousand_connections_at_once_keep_their_bytes_apart(#[case] datapath: Datapath) {
    let _alone = alone();
    let rig = Rig::start(datapath, &[]);
    let descriptors = rig.router.descriptors();
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
    until("the descriptors are given back", SOON, || {
        rig.router.descriptors() <= descriptors + POOLED
    });
}

/// Sixteen pairs that send both ways as fast as they can, each with a hash of its own.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn streams_at_full_speed_side_by_side_arrive_intact(#[case] datapath: Datapath) {
    const LEN: u64 = 24 << 20;
    let _alone = alone();
    let rig = Rig::start(datapath, &[]);
    let pairs: Vec<Pair> = (0..16).map(|_| rig.open()).collect();
    let limit = Duration::from_secs(60);
    thread::scope(|scope| {
        for (n, pair) in (0..).zip(&pairs) {
            let ends = [(&pair.client, &pair.server), (&pair.server, &pair.client)];
            for (way, (from, to)) in (0..).zip(ends) {
                let sender = scope.spawn(move || {
                    let sum = bulk::send(from, Pattern::new(2 * n + way), LEN).expect("send");
                    from.shutdown(Shutdown::Write).expect("shutdown");
                    sum
                });
                scope.spawn(move || {
                    let (received, end) = bulk::receive(to, limit);
                    assert_eq!(end, End::Fin, "pair {n}");
                    assert_eq!(received, sender.join().expect("the sender"), "pair {n}");
                });
            }
        }
    });
    for pair in pairs {
        let access = rig.access(pair.address);
        assert_eq!(access.reason, "done", "{access:?}");
        assert_eq!(access.bytes_up, pair.up + LEN, "{access:?}");
        assert_eq!(access.bytes_down, pair.down + LEN, "{access:?}");
    }
}

/// Some hundreds of bytes of their own.
fn payload(round: usize, n: usize) -> Vec<u8> {
    Pattern::new((round * CONNECTIONS + n) as u64).bytes(100 + n % 900)
}
