//! Links that drop, links and readers that are slow, and ends that both stop reading.

use std::fs;
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rstest::rstest;
use rustix::process::Signal;
use sni_router_tests::bulk::{Pattern, Sum, receive, send, send_until_stalled};
use sni_router_tests::daemon::Datapath;
use sni_router_tests::netns::Namespace;
use sni_router_tests::raw::{End, hello, read_exactly, read_some, read_to_end, write};
use sni_router_tests::rig::{HOST, Rig, alone};
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until};

use crate::lifetime::claimed;

const MIB: u64 = 1 << 20;

/// Far more than a loaded machine needs for one of the transfers over a slow link.
const LIMIT: Duration = Duration::from_secs(60);

/// The router's devices, as [`sni_router_tests::topology`] names them.
const CLIENT_LINK: &str = "client";
const BACKEND_LINK: &str = "backend0";

/// A link that drops what its sender has queued beyond 20 kB: less than one burst of the stack.
const DROPPING: &str = "rate 100mbit burst 16kb limit 20kb";

/// The segments that the router's own stack fails to send are sent again, behind others: the
/// datapath must not notice, nor count them twice.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn bytes_stay_in_order_when_the_routers_own_queue_drops(
    #[case] datapath: Datapath,
    #[values(CLIENT_LINK, BACKEND_LINK)] link: &str,
) {
    const LEN: u64 = 20 * MIB;
    let rig = Rig::start(datapath, &[]);
    let router = &rig.lab.net.router;
    shape(router, link, DROPPING);
    let pair = rig.open();
    let (from, to) = match link {
        CLIENT_LINK => (&pair.server, &pair.client),
        _ => (&pair.client, &pair.server),
    };
    let (sent, received) = transfer(from, to, LEN);
    assert_eq!(sent, received);
    assert!(dropped(router, link) > 0, "the link has dropped nothing");

    let (address, up, down) = (pair.address, pair.up, pair.down);
    drop(pair);
    let access = rig.access(address);
    assert_eq!(access.reason, "done", "{access:?}");
    let (more_up, more_down) = if link == CLIENT_LINK {
        (0, LEN)
    } else {
        (LEN, 0)
    };
    assert_eq!(access.bytes_up, up + more_up, "{access:?}");
    assert_eq!(access.bytes_down, down + more_down, "{access:?}");
}

/// What one direction may hold in all: the send buffers of the sender and of the router (4 MiB
/// each, net.ipv4.tcp_wmem), the receive buffers of the router and of the reader (6 MiB each,
/// tcp_rmem), and half as much again for what the datapath itself keeps.
const MOST_HELD: u64 = 30 * MIB;

/// How much memory two such directions may cost the host: twice their bytes, since the kernel
/// charges a buffer for more than the bytes in it, and room for what else runs on the machine.
const MOST_COST: u64 = 200 * MIB;

/// How much the router's own memory may grow for both.
const MOST_RESIDENT: u64 = 16 * MIB;

/// Neither direction can be drained by the other end.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn two_ends_that_flood_and_do_not_read_are_both_stopped(#[case] datapath: Datapath) {
    let _alone = alone();
    let rig = Rig::start(datapath, &[]);
    let pair = rig.open();
    let (before, resident) = (available_memory(), rig.router.resident());
    let flood = |stream, seed| {
        let sent = send_until_stalled(stream, Pattern::new(seed), Duration::from_secs(2));
        assert!(sent.len <= MOST_HELD, "took {} bytes", sent.len);
        sent
    };
    let (up, down) = thread::scope(|scope| {
        let up = scope.spawn(|| flood(&pair.client, 1));
        let down = flood(&pair.server, 2);
        (up.join().expect("the client"), down)
    });
    let grown = rig.router.resident().saturating_sub(resident);
    assert!(grown <= MOST_RESIDENT, "the router grew by {grown} bytes");
    // Other processes of the machine come and go; what is held here stays until the ends read.
    until("the two streams cost little memory", LIMIT, || {
        before.saturating_sub(available_memory()) <= MOST_COST
    });

    let (len_up, len_down) = (up.len, down.len);
    for stream in [&pair.client, &pair.server] {
        stream.shutdown(Shutdown::Write).expect("shutdown");
    }
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(receive(&pair.server, SOON), (up, End::Fin), "up"));
        assert_eq!(receive(&pair.client, SOON), (down, End::Fin), "down");
    });
    let access = rig.access(pair.address);
    assert_eq!(access.reason, "done", "{access:?}");
    assert_eq!(access.bytes_up, pair.up + len_up, "{access:?}");
    assert_eq!(access.bytes_down, pair.down + len_down, "{access:?}");
}

/// All of the answer may be in the router's send queue long before the client has it. Its way over
/// the link is use, though no more bytes enter the router.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn answer_that_takes_longer_than_the_idle_timeout_arrives_whole(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &["--idle-timeout", "2s"]);
    let pair = rig.open();
    // 11 seconds for 4 MiB.
    let slow = "rate 3mbit burst 16kb limit 64kb";
    shape(&rig.lab.net.router, CLIENT_LINK, slow);
    let begin = Instant::now();
    let (sent, received) = transfer(&pair.server, &pair.client, 4 * MIB);
    assert_eq!(sent, received);
    let took = begin.elapsed();
    assert!(took > Duration::from_secs(8), "not slow: {took:?}");

    let (address, down) = (pair.address, pair.down);
    drop(pair);
    let access = rig.access(address);
    assert_eq!(access.reason, "done", "{access:?}");
    assert_eq!(access.bytes_down, down + 4 * MIB, "{access:?}");
}

/// Bytes that wait for a reader are no use of the connection; only their way is.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn connection_whose_reader_has_stopped_is_idle(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &["--idle-timeout", "2s"]);
    let pair = rig.open();
    let stall = Duration::from_millis(300);
    send_until_stalled(&pair.server, Pattern::new(1), stall);
    let access = rig.access(pair.address);
    assert_eq!(access.reason, "idle_timeout", "{access:?}");
    assert!(access.duration_ms >= 1900.0, "{access:?}");
}

/// The last bytes and the FIN are the kernel's to deliver, and it needs the VIP for that. Not so
/// with `tc`, where they are the endpoint's: nothing of them is at the router.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
fn claimed_vip_stays_until_the_last_bytes_are_delivered(#[case] datapath: Datapath) {
    let mut rig = Rig::start(datapath, &["--drain-timeout", "30s"]);
    let pair = rig.open();
    // Two seconds for 2 MiB.
    let slow = "rate 8mbit burst 16kb limit 64kb";
    shape(&rig.lab.net.router, CLIENT_LINK, slow);
    pair.client.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(&pair.server, SOON), (Vec::new(), End::Fin));

    let answer = Pattern::new(5).bytes(2 << 20);
    let arrived = AtomicU64::new(0);
    thread::scope(|scope| {
        let client = scope.spawn(|| receive_counted(&pair.client, &arrived));
        write(&pair.server, &answer);
        pair.server.shutdown(Shutdown::Write).expect("shutdown");
        let access = rig.access(pair.address);
        assert_eq!(access.reason, "done", "{access:?}");
        rig.router.signal(Signal::TERM);
        let early = arrived.load(Ordering::Relaxed);
        let (got, end) = client.join().expect("the client");
        assert_eq!(end, End::Fin);
        assert!(got == answer, "{} bytes", got.len());
        assert!(
            early < got.len() as u64,
            "all was delivered before the signal"
        );
    });
    let status = rig.router.wait_exit(SOON);
    assert!(status.success(), "{status}");
    assert!(claimed(&rig).is_empty(), "{:?}", claimed(&rig));
}

/// Around the sizes of the reads that take the hello, and what comes with it, off the queue.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn queue_that_is_read_in_part_arrives_once(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    let hello = hello(HOST);
    for total in [4096, 8192, 12_288, 16_384].map(|size| [size - 1, size, size + 1]) {
        for total in total {
            let behind = Pattern::new(total as u64).bytes(total - hello.len());
            let all = [hello.as_slice(), &behind].concat();
            let client = rig.lab.connect(Family::V4);
            let address = client.local_addr().expect("a socket");
            write(&client, &all);
            let server = rig.accept();
            let got = read_exactly(&server, total, SOON);
            assert!(got == all, "{total} bytes: some were lost or moved");
            // A first byte back, which it can only have once the datapath has taken over.
            write(&server, b"!");
            assert_eq!(read_exactly(&client, 1, SOON), b"!");
            drop(client);
            assert_eq!(read_to_end(&server, SOON), (Vec::new(), End::Fin));
            drop(server);
            let access = rig.access(address);
            assert_eq!(access.reason, "done", "{access:?}");
            assert_eq!(access.bytes_up, total as u64, "{access:?}");
        }
    }
}

/// Sends this much and FIN; gives the sums of what was sent and what arrived.
fn transfer(from: &TcpStream, to: &TcpStream, len: u64) -> (Sum, Sum) {
    thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let sum = send(from, Pattern::new(len), len).expect("send");
            from.shutdown(Shutdown::Write).expect("shutdown");
            sum
        });
        let (received, end) = receive(to, LIMIT);
        assert_eq!(end, End::Fin, "after {} bytes", received.len);
        (sender.join().expect("the sender"), received)
    })
}

/// Receives to the end, and says meanwhile how many bytes it has.
fn receive_counted(from: &TcpStream, arrived: &AtomicU64) -> (Vec<u8>, End) {
    let deadline = Instant::now() + LIMIT;
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        match read_some(from, &mut chunk, deadline) {
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
            Err(end) => return (bytes, end),
        }
        arrived.store(bytes.len() as u64, Ordering::Relaxed);
    }
}

/// Sends what leaves by a device of the namespace through a token bucket (tc-tbf(8)).
#[track_caller]
fn shape(ns: &Namespace, device: &str, bucket: &str) {
    let add = ["qdisc", "add", "dev", device, "root", "tbf"];
    tc(ns, add.into_iter().chain(bucket.split(' ')));
}

/// How many packets a device's token bucket has dropped.
#[track_caller]
fn dropped(ns: &Namespace, device: &str) -> u64 {
    let shown = tc(ns, ["-s", "qdisc", "show", "dev", device, "root"]);
    // "... (dropped 12, overlimits 34 requeues 0)"
    let count = shown.split_once("(dropped ").map(|(_, rest)| rest);
    let count = count.and_then(|rest| rest.split(',').next()?.parse().ok());
    count.unwrap_or_else(|| panic!("no count of drops in {shown}"))
}

#[track_caller]
fn tc<'a>(ns: &Namespace, args: impl IntoIterator<Item = &'a str>) -> String {
    let mut command = Command::new("tc");
    command.args(["-n", ns.name()]).args(args);
    let output = command
        .output()
        .expect("the lab needs `tc` (apt-get install iproute2)");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What the host could give to new processes, in bytes (proc_meminfo(5)).
fn available_memory() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").expect("procfs");
    let kilobytes = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|number| number.parse::<u64>().ok())
        .expect("MemAvailable");
    kilobytes * 1024
}
