//! A reader that stops: the sender must be stopped too, not the router fill up.

use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rstest::rstest;
use sni_router_tests::bulk::{Pattern, receive, send_until_stalled};
use sni_router_tests::daemon::Datapath;
use sni_router_tests::raw::{End, nothing_comes, read_exactly, write};
use sni_router_tests::rig::{Pair, Rig};
use sni_router_tests::wait::SOON;

const MIB: u64 = 1 << 20;

/// What a stalled stream may hold in all: the send buffers of the sender and of the router (4 MiB
/// each, net.ipv4.tcp_wmem), the receive buffers of the router and of the reader (6 MiB each,
/// tcp_rmem), and as much again for what the datapath itself keeps.
const MOST_HELD: u64 = 40 * MIB;

/// How much the router's own memory may grow for one stalled stream.
const MOST_RESIDENT: u64 = 8 * MIB;

/// Without a byte accepted for this long, a sender counts as blocked.
const STALL: Duration = Duration::from_secs(1);

/// Fills the stream until it blocks, checks what it holds, lets the other way work meanwhile, and
/// then reads everything.
fn stall(rig: &Rig, from: &TcpStream, to: &TcpStream) -> u64 {
    let before = rig.router.resident();
    let sent = send_until_stalled(from, Pattern::new(1), STALL);
    assert!(sent.len <= MOST_HELD, "took {} bytes", sent.len);
    let grown = rig.router.resident().saturating_sub(before);
    assert!(grown <= MOST_RESIDENT, "the router grew by {grown} bytes");

    // The way back is not held up.
    write(to, b"still here");
    assert_eq!(read_exactly(from, 10, SOON), b"still here");

    from.shutdown(Shutdown::Write).expect("shutdown");
    let len = sent.len;
    assert_eq!(receive(to, SOON), (sent, End::Fin));
    len
}

fn finish(rig: &Rig, pair: Pair) -> (u64, u64) {
    let Pair {
        client,
        server,
        address,
        up,
        down,
    } = pair;
    drop((client, server));
    let access = rig.access(address);
    assert_eq!(access.reason, "done", "{access:?}");
    (access.bytes_up - up, access.bytes_down - down)
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn endpoint_that_does_not_read_stops_the_client(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    let pair = rig.open();
    let len = stall(&rig, &pair.client, &pair.server);
    assert_eq!(finish(&rig, pair), (len, 10));
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn client_that_does_not_read_stops_the_endpoint(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    let pair = rig.open();
    let len = stall(&rig, &pair.server, &pair.client);
    assert_eq!(finish(&rig, pair), (10, len));
}

/// A stream that stops and goes on again and again: whatever wakes the sender up must not be lost.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn stream_goes_on_after_every_stall(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    let pair = rig.open();
    for round in 0..10 {
        let stall = Duration::from_millis(200);
        let sent = send_until_stalled(&pair.server, Pattern::new(round), stall);
        let len = usize::try_from(sent.len).expect("it fits");
        let received = read_exactly(&pair.client, len, SOON);
        assert!(received == Pattern::new(round).bytes(len), "round {round}");
        assert!(nothing_comes(&pair.client, Duration::from_millis(10)));
    }
    finish(&rig, pair);
}

/// A reader that takes a little at a time, so that the window opens in small steps.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn reader_of_small_pieces_gets_everything(#[case] datapath: Datapath) {
    const LEN: usize = 4 << 20;
    let rig = Rig::start(datapath, &[]);
    let pair = rig.open();
    let expected = Pattern::new(9).bytes(LEN);
    std::thread::scope(|scope| {
        scope.spawn(|| write(&pair.server, &expected));
        for (n, piece) in expected.chunks(4999).enumerate() {
            let got = read_exactly(&pair.client, piece.len(), SOON);
            assert!(got == piece, "piece {n}");
            if n % 100 == 0 {
                std::thread::yield_now();
            }
        }
    });
    finish(&rig, pair);
}

/// What a router needs does not go up and down by 2 MB while its connections need a few hundred bytes each.
#[test]
fn memory_comes_in_small_pages() {
    let rig = Rig::start(Datapath::Userspace, &[]);
    assert_eq!(rig.router.status_line("THP_enabled"), "0");
}
