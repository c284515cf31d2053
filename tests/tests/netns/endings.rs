//! How connections end: FIN each way, RST each way, and nothing lost before either.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use rstest::rstest;
use sni_router_tests::bulk::{self, Pattern, Random, receive, sum};
use sni_router_tests::daemon::Datapath;
use sni_router_tests::raw::{End, nothing_comes, read_exactly, read_to_end, reset, write};
use sni_router_tests::rig::Rig;
use sni_router_tests::wait::{SOON, until};

/// Longer than the time after which routers that do not carry half-close give up the other way
/// (100 ms in Traefik).
const LONG_AFTER: Duration = Duration::from_secs(2);

const MIB: u64 = 1 << 20;

/// What the two ends of a connection buffer on their own: `tc` has no buffer in between.
const AFLOAT: u64 = 64 << 10;

/// One side ends its direction; the other goes on for long, in both a trickle and a flood.
fn half_close(closing: &TcpStream, open: &TcpStream) {
    closing.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(open, SOON), (Vec::new(), End::Fin));
    for _ in 0..3 {
        write(open, b"tick");
        assert_eq!(read_exactly(closing, 4, SOON), b"tick");
        assert!(nothing_comes(closing, LONG_AFTER / 3));
    }
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let sent = bulk::send(open, Pattern::new(1), 64 * MIB).expect("send");
            open.shutdown(Shutdown::Write).expect("shutdown");
            sent
        });
        let (received, end) = receive(closing, SOON);
        assert_eq!(end, End::Fin);
        assert_eq!(received, sender.join().expect("the sender"));
    });
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn client_half_close_leaves_the_way_down_open(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    let pair = rig.open();
    half_close(&pair.client, &pair.server);
    let access = rig.access(pair.address);
    assert_eq!(access.reason, "done", "{access:?}");
    assert_eq!(
        access.bytes_down,
        pair.down + 3 * 4 + 64 * MIB,
        "{access:?}"
    );
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn endpoint_half_close_leaves_the_way_up_open(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    let pair = rig.open();
    half_close(&pair.server, &pair.client);
    let access = rig.access(pair.address);
    assert_eq!(access.reason, "done", "{access:?}");
    assert_eq!(access.bytes_up, pair.up + 3 * 4 + 64 * MIB, "{access:?}");
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn client_reset_is_a_reset_at_the_endpoint(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    let pair = rig.open();
    write(&pair.client, b"ping");
    assert_eq!(read_exactly(&pair.server, 4, SOON), b"ping");
    reset(pair.client);
    assert_eq!(read_to_end(&pair.server, SOON), (Vec::new(), End::Reset));
    let access = rig.access(pair.address);
    assert_eq!(access.reason, "client_reset", "{access:?}");
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn endpoint_reset_is_a_reset_at_the_client(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    let pair = rig.open();
    write(&pair.server, b"pong");
    assert_eq!(read_exactly(&pair.client, 4, SOON), b"pong");
    reset(pair.server);
    assert_eq!(read_to_end(&pair.client, SOON), (Vec::new(), End::Reset));
    let access = rig.access(pair.address);
    assert_eq!(access.reason, "endpoint_reset", "{access:?}");
}

/// The end that resets has already ended its own direction, so the router no longer reads from it.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn reset_after_half_close_is_still_a_reset(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    let pair = rig.open();
    pair.client.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(&pair.server, SOON), (Vec::new(), End::Fin));
    write(&pair.server, b"pong");
    assert_eq!(read_exactly(&pair.client, 4, SOON), b"pong");
    reset(pair.client);

    // Bytes into a connection that was reset: the endpoint learns of it at the latest now.
    let mut server = &pair.server;
    until("RST at the endpoint", SOON, || {
        server.write(b"more").is_err()
    });
    let access = rig.access(pair.address);
    assert_eq!(access.reason, "client_reset", "{access:?}");
}

/// The other end does not read, so the router cannot pass on more of what the resetting end has
/// sent; the reset is noticed all the same, and not when the idle timeout comes.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn reset_of_a_sender_that_is_stalled_is_noticed(
    #[case] datapath: Datapath,
    #[values("client_reset", "endpoint_reset")] reason: &str,
) {
    let rig = Rig::start(datapath, &[]);
    let pair = rig.open();
    let (resetting, other) = match reason {
        "client_reset" => (pair.client, pair.server),
        _ => (pair.server, pair.client),
    };
    bulk::send_until_stalled(&resetting, Pattern::new(1), Duration::from_millis(300));
    reset(resetting);
    let access = rig.access(pair.address);
    assert_eq!(access.reason, reason, "{access:?}");
    assert_eq!(receive(&other, SOON).1, End::Reset);
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn reset_in_the_middle_of_a_transfer_ends_both_sides(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    for round in 0..20 {
        let pair = rig.open();
        let (resetting, other) = if round % 2 == 0 {
            (pair.client, pair.server)
        } else {
            (pair.server, pair.client)
        };
        bulk::send(&resetting, Pattern::new(round), AFLOAT).expect("send");
        reset(resetting);
        let (received, end) = receive(&other, SOON);
        assert_eq!(end, End::Reset, "round {round}");
        assert!(received.len <= AFLOAT);
        let access = rig.access(pair.address);
        let reason = ["client_reset", "endpoint_reset"][(round % 2) as usize];
        assert_eq!(access.reason, reason, "{access:?}");
    }
}

/// Both sides send a random amount and end with FIN at once; not a byte may be cut off.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn five_hundred_short_connections_lose_nothing_at_close(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    let mut random = Random::new(42);
    for round in 0..500 {
        let pair = rig.open();
        let up = Pattern::new(2 * round).bytes(length(&mut random));
        let down = Pattern::new(2 * round + 1).bytes(length(&mut random));
        let send = |to: TcpStream, bytes: Vec<u8>| {
            thread::spawn(move || {
                write(&to, &bytes);
                to.shutdown(Shutdown::Write).expect("shutdown");
            })
        };
        let clone = |stream: &TcpStream| stream.try_clone().expect("clone");
        let senders = [
            send(clone(&pair.client), up.clone()),
            send(clone(&pair.server), down.clone()),
        ];
        let server = clone(&pair.server);
        let upward = thread::spawn(move || receive(&server, SOON));
        assert_eq!(
            receive(&pair.client, SOON),
            (sum(&down), End::Fin),
            "round {round}"
        );
        let upward = upward.join().expect("the endpoint");
        assert_eq!(upward, (sum(&up), End::Fin), "round {round}");
        for sender in senders {
            sender.join().expect("a sender");
        }
        let access = rig.access(pair.address);
        assert_eq!(access.reason, "done", "round {round}: {access:?}");
        assert_eq!(access.bytes_up, pair.up + up.len() as u64, "{access:?}");
        assert_eq!(
            access.bytes_down,
            pair.down + down.len() as u64,
            "{access:?}"
        );
    }
}

/// Nothing, a few bytes, some segments, or more than the buffers of a socket at first.
fn length(random: &mut Random) -> usize {
    let bound = [1, 100, 20_000, 400_000][random.below(4) as usize];
    random.below(bound) as usize
}

/// The endpoint answers, ends and closes while the client still reads slowly: what is queued in
/// the router must outlive the endpoint's connection.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn bytes_queued_in_the_router_outlive_the_sender(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    for round in 0..10 {
        let pair = rig.open();
        // As much as the buffers take, then gone.
        let stall = Duration::from_millis(300);
        let sent = bulk::send_until_stalled(&pair.server, Pattern::new(round), stall);
        pair.client.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(read_to_end(&pair.server, SOON), (Vec::new(), End::Fin));
        drop(pair.server);
        assert!(sent.len > 0);
        assert_eq!(
            receive(&pair.client, SOON),
            (sent, End::Fin),
            "round {round}"
        );
        let access = rig.access(pair.address);
        assert_eq!(access.reason, "done", "{access:?}");
    }
}

/// An answer to what the endpoint has not read to its end: its kernel sends what was said, and a RST right behind it.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn last_words_before_a_reset_arrive(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    let words = [0x5a; 1000];
    for round in 0..100 {
        let pair = rig.open();
        write(&pair.client, b"unread");
        pair.server.peek(&mut [0]).expect("it has come");
        write(&pair.server, &words);
        drop(pair.server);
        let heard = read_to_end(&pair.client, SOON);
        assert_eq!(heard, (words.to_vec(), End::Reset), "round {round}");
    }
}
