//! Hellos that come slowly, in pieces, or with more behind them.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rstest::rstest;
use sni_router_tests::bulk::Pattern;
use sni_router_tests::daemon::Datapath;
use sni_router_tests::raw::{End, Hello, hello, nothing_comes, read_exactly, read_to_end, write};
use sni_router_tests::rig::{HOST, Rig};
use sni_router_tests::site::PORT;
use sni_router_tests::topology::Family;
use sni_router_tests::wait::SOON;

/// Ends both sides, once the datapath has taken over, and checks the record: `up` bytes went to
/// the endpoint.
fn finish(rig: &Rig, client: TcpStream, server: TcpStream, up: usize) {
    finish_unless(rig, client, server, up, &[]);
}

/// The same where the datapath may decline for one of these reasons.
fn finish_unless(rig: &Rig, client: TcpStream, server: TcpStream, up: usize, declined: &[&str]) {
    let address = client.local_addr().expect("a connected socket");
    write(&server, b"!");
    assert_eq!(read_exactly(&client, 1, SOON), b"!");
    drop(client);
    assert_eq!(read_to_end(&server, SOON), (Vec::new(), End::Fin));
    drop(server);
    let access = rig.access_unless(address, declined);
    assert_eq!(access.reason, "done", "{access:?}");
    assert_eq!(access.bytes_up, up as u64, "{access:?}");
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn hello_in_one_byte_segments_arrives_whole(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    for post_quantum in [false, true] {
        let bytes = Hello {
            post_quantum,
            ..Hello::default()
        }
        .bytes(Some(HOST));
        let client = rig.lab.connect(Family::V4);
        for byte in bytes.chunks(1) {
            write(&client, byte);
        }
        let server = rig.accept();
        assert_eq!(read_exactly(&server, bytes.len(), SOON), bytes);
        finish(&rig, client, server, bytes.len());
    }
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn hello_in_one_byte_records_arrives_as_it_was(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    let whole = hello(HOST);
    let (header, message) = whole.split_at(5);
    let mut bytes = Vec::new();
    for byte in message {
        bytes.extend_from_slice(&[header[0], header[1], header[2], 0, 1, *byte]);
    }
    let client = rig.lab.connect(Family::V4);
    write(&client, &bytes);
    let server = rig.accept();
    assert_eq!(read_exactly(&server, bytes.len(), SOON), bytes);
    finish(&rig, client, server, bytes.len());
}

/// As a client with early data does: bytes behind the hello, which the router has read, which are
/// still queued, and which are under way, must keep their order across the hand-over.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn data_behind_the_hello_arrives_in_order(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    let hello = hello(HOST);
    let lengths = [1, 100, 1400, 16 * 1024, 300 * 1024];
    for (round, behind) in (0..).zip(lengths.into_iter().cycle().take(50)) {
        let data = Pattern::new(round).bytes(behind);
        let client = rig.lab.connect(Family::V4);
        let sender = client.try_clone().expect("clone");
        let all = [hello.as_slice(), &data].concat();
        let sent = all.clone();
        // In the segment of the hello, in the ones right behind it, and byte by byte.
        let thread = std::thread::spawn(move || match round % 3 {
            0 => write(&sender, &sent),
            1 => {
                let (head, tail) = sent.split_at(hello_len(&sent));
                write(&sender, head);
                write(&sender, tail);
            }
            _ => {
                let (head, tail) = sent.split_at(hello_len(&sent) + 1);
                write(&sender, head);
                for piece in tail.chunks(777) {
                    write(&sender, piece);
                }
            }
        });
        let server = rig.accept();
        let got = read_exactly(&server, all.len(), SOON);
        assert!(got == all, "round {round}: bytes were lost or moved");
        thread.join().expect("the sender");
        // More than the endpoint's socket takes at once must be copied, which `sockmap` leaves to
        // `userspace`.
        let declined: &[&str] = if behind > 64 * 1024 {
            &["slow_endpoint"]
        } else {
            &[]
        };
        finish_unless(&rig, client, server, all.len(), declined);
    }
}

/// The length of the first record, header included.
fn hello_len(bytes: &[u8]) -> usize {
    5 + usize::from(u16::from_be_bytes([bytes[3], bytes[4]]))
}

/// A server that speaks first, and while the client is still sending.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn both_may_speak_right_after_the_hello(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    for round in 0..50 {
        let client = rig.lab.connect(Family::V4);
        let hello = hello(HOST);
        write(&client, &hello);
        let server = rig.accept();
        // Before the hello is even read: the hand-over may be under way.
        let greeting = Pattern::new(round).bytes(5000);
        write(&server, &greeting);
        write(&client, b"more");
        assert!(read_exactly(&client, greeting.len(), SOON) == greeting);
        let up = [hello.as_slice(), b"more"].concat();
        assert_eq!(read_exactly(&server, up.len(), SOON), up);
        // Before the hello was even sent, which no TLS server does.
        finish_unless(&rig, client, server, up.len(), &["endpoint_spoke"]);
    }
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn slow_hello_within_the_limit_is_served(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &["--hello-timeout", "5s"]);
    let client = rig.lab.connect(Family::V4);
    let bytes = hello(HOST);
    for piece in bytes.chunks(bytes.len().div_ceil(5)) {
        write(&client, piece);
        assert!(nothing_comes(&client, Duration::from_millis(200)));
    }
    let server = rig.accept();
    assert_eq!(read_exactly(&server, bytes.len(), SOON), bytes);
    finish(&rig, client, server, bytes.len());
}

/// The limit is on the whole hello: a byte now and then does not extend it.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn slow_loris_is_cut_off_at_the_limit(#[case] datapath: Datapath) {
    let rig = Rig::start(
        datapath,
        &["--hello-timeout", "1s", "--on-timeout", "close"],
    );
    let client = rig.lab.connect(Family::V4);
    let address = client.local_addr().expect("a connected socket");
    let start = Instant::now();
    let bytes = hello(HOST);
    let mut pieces = bytes.chunks(1);
    while nothing_comes(&client, Duration::from_millis(50)) {
        assert!(start.elapsed() < SOON, "the router still waits");
        let piece = pieces.next().expect("cut off long before the hello ends");
        write(&client, piece);
    }
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(900), "after {elapsed:?}");
    assert!(elapsed < Duration::from_secs(3), "after {elapsed:?}");
    let access = rig.router.log().access_of(address, SOON);
    assert_eq!(access.reason, "hello_timeout", "{access:?}");
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn too_many_incomplete_hellos_are_refused_and_the_rest_served(#[case] datapath: Datapath) {
    const LIMIT: usize = 8;
    let rig = Rig::start(
        datapath,
        &["--max-pending-hellos", "8", "--hello-timeout", "60s"],
    );
    let bytes = hello(HOST);
    // Each is seen to wait, so that none of them is the one too many.
    let waiting: Vec<TcpStream> = (0..LIMIT)
        .map(|_| {
            let client = rig.lab.connect(Family::V4);
            write(&client, &bytes[..10]);
            client
        })
        .collect();
    for client in &waiting {
        assert!(nothing_comes(client, Duration::from_millis(50)));
    }

    // Its connect(2) may already meet the reset.
    let vip = SocketAddr::new(Family::V4.vip(), PORT);
    let extra = rig.lab.net.client.connect(vip, SOON);
    assert!(extra.is_err() || extra.is_ok_and(|extra| read_to_end(&extra, SOON).0.is_empty()));
    rig.router
        .log()
        .wait_for_access(SOON, |access| access.reason == "too_many_hellos");

    for client in waiting {
        write(&client, &bytes[10..]);
        let server = rig.accept();
        assert_eq!(read_exactly(&server, bytes.len(), SOON), bytes);
        finish(&rig, client, server, bytes.len());
    }
    // The room is free again.
    let client = rig.lab.connect(Family::V4);
    write(&client, &bytes);
    let server = rig.accept();
    assert_eq!(read_exactly(&server, bytes.len(), SOON), bytes);
    finish(&rig, client, server, bytes.len());
}
