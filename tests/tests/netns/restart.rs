//! Flows that outlive their router, and routers that follow each other.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use sni_router_common::flow::{Flow, FlowKey};
use sni_router_common::names;
use sni_router_tests::bpffs::Bpffs;
use sni_router_tests::bulk::{Pattern, receive, send_until};
use sni_router_tests::daemon::{Datapath, Router, binary};
use sni_router_tests::raw::{End, hello, read_exactly, read_to_end, write};
use sni_router_tests::rig::{HOST, Lab, Pair, Rig, alone};
use sni_router_tests::server::Server;
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until};

use crate::lifetime::claimed;

/// A rig whose router pins in a BPF file system of its own.
pub(super) struct Pinned {
    pub(super) rig: Rig,
    pub(super) bpffs: Bpffs,
}

impl Pinned {
    pub(super) fn start() -> Self {
        let bpffs = Bpffs::mount();
        let rig = Rig::start(Datapath::Tc, &["--pin-dir", bpffs.dir()]);
        Self { rig, bpffs }
    }

    /// The next router, on the same namespace and pins.
    pub(super) fn next(&self, admin: &str) -> Router {
        next(&self.rig.lab, &self.bpffs, admin)
    }

    /// A connection whose sockets the router has closed: only packets are left of it.
    pub(super) fn open_left(&self) -> Pair {
        let before = self.rig.router.descriptors();
        let pair = self.rig.open();
        until("the router has let go of its sockets", SOON, || {
            self.rig.router.descriptors() <= before
        });
        pair
    }

    #[track_caller]
    pub(super) fn detach(&self) -> String {
        let output = detach(&self.rig, self.bpffs.dir());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// kill -9 in the middle of transfers: none notices. The next router knows them all, and writes
/// their records when they end.
#[test]
fn transfers_survive_the_kill_of_their_router_and_are_adopted() {
    const PAIRS: u64 = 40;
    const LEN: u64 = 4 << 20;
    let _alone = alone();
    let mut pinned = Pinned::start();
    let pairs: Vec<Pair> = (0..PAIRS).map(|_| pinned.open_left()).collect();
    let (going, is_killed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let lens: Vec<u64> = thread::scope(|scope| {
        let (going, is_killed) = (&going, &is_killed);
        let transfer = |(n, pair)| {
            let Pair { client, server, .. }: &Pair = pair;
            let sender = scope.spawn(move || {
                let mut has_begun = false;
                // All of them are in the middle, however fast they are.
                let is_over = || {
                    going.fetch_add(usize::from(!has_begun), Ordering::Relaxed);
                    has_begun = true;
                    is_killed.load(Ordering::Relaxed)
                };
                let sum = send_until(client, Pattern::new(n), LEN, is_over).expect("send");
                client.shutdown(Shutdown::Write).expect("shutdown");
                sum
            });
            scope.spawn(move || {
                let (received, end) = receive(server, SOON);
                let sent = sender.join().expect("the sender");
                let len = sent.len;
                assert_eq!((received, end), (sent, End::Fin), "pair {n}");
                len
            })
        };
        let transfers: Vec<_> = (0..).zip(&pairs).map(transfer).collect();
        let deadline = Instant::now() + SOON;
        while going.load(Ordering::Relaxed) < pairs.len() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        let were_going = going.load(Ordering::Relaxed);
        pinned.rig.router.kill();
        is_killed.store(true, Ordering::Relaxed);
        assert_eq!(were_going, pairs.len(), "not all transfers were under way");
        let lens = transfers
            .into_iter()
            .map(|one| one.join().expect("it arrives"));
        lens.collect()
    });
    // The other direction, with nobody there.
    for pair in &pairs {
        write(&pair.server, b"answer");
        assert_eq!(read_exactly(&pair.client, 6, SOON), b"answer");
    }

    pinned.rig.router = pinned.next(&pinned.rig.lab.admin());
    let status = pinned.rig.router.status();
    assert_eq!(status["connections"], PAIRS, "{status}");
    let mut addresses = Vec::new();
    for (pair, len) in pairs.into_iter().zip(lens) {
        assert!(len >= LEN, "{len}");
        pair.server.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(read_to_end(&pair.client, SOON), (Vec::new(), End::Fin));
        addresses.push((pair.address, pair.up + len, pair.down + 6));
    }
    for (address, up, down) in addresses {
        let access = pinned.rig.access(address);
        assert_eq!(access.reason, "done", "{access:?}");
        assert_eq!(
            (access.bytes_up, access.bytes_down),
            (up, down),
            "{access:?}"
        );
    }
    pinned.rig.open().exchange();
}

/// A router that is told to stop leaves what the kernel carries; nothing of it stays once that is
/// over.
#[test]
fn flows_outlive_a_router_that_stops_and_detach_ends_them() {
    let mut pinned = Pinned::start();
    let pairs = [pinned.open_left(), pinned.open_left()];
    pinned.rig.router.terminate(SOON);
    let access = pinned.rig.access(pairs[0].address);
    assert_eq!(access.reason, "left", "{access:?}");
    pairs.iter().for_each(Pair::exchange);
    assert!(!claimed(&pinned.rig).is_empty(), "flows need their VIP");

    let said = pinned.detach();
    assert!(said.starts_with("2 connections ended"), "{said}");
    for pair in &pairs {
        assert_eq!(read_to_end(&pair.client, SOON), (Vec::new(), End::Reset));
        assert_eq!(read_to_end(&pair.server, SOON), (Vec::new(), End::Reset));
    }
    assert_eq!(pinned.bpffs.pinned(), Vec::<PathBuf>::new());
    assert!(claimed(&pinned.rig).is_empty());
}

/// Its time began with the router before.
#[test]
fn adopted_flow_is_ended_at_its_maximum_duration() {
    let mut pinned = Pinned::start();
    let pair = pinned.open_left();
    pinned.rig.router.kill();
    let age = Duration::from_secs(5);
    thread::sleep(age);
    let (dir, admin) = (pinned.bpffs.dir(), pinned.rig.lab.admin_of("next"));
    let args = ["--pin-dir", dir, "--datapath", "tc", "--claim-vips"];
    let limit = ["--max-duration", "1s"];
    let next = pinned
        .rig
        .lab
        .start_at(&admin, &[&args[..], &limit].concat());
    for side in [&pair.client, &pair.server] {
        assert_eq!(read_to_end(side, SOON), (Vec::new(), End::Reset));
    }
    let access = next.log().access_of(pair.address, SOON);
    assert_eq!(access.reason, "max_duration", "{access:?}");
    assert!(access.duration_ms >= 4000.0, "{access:?}");
}

/// What a running router needs is not left over, whether it pins or not.
#[test]
fn detach_leaves_a_running_router_alone() {
    for is_pinned in [true, false] {
        let bpffs = Bpffs::mount();
        let pins = if is_pinned { bpffs.dir() } else { "none" };
        let rig = Rig::start(Datapath::Tc, &["--pin-dir", pins]);
        let pair = rig.open();
        let output = detach(&rig, bpffs.dir());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&rig.router.pid().to_string()), "{said}");
        pair.exchange();
        rig.open().exchange();
        assert_eq!(bpffs.pinned().is_empty(), !is_pinned);
    }
}

#[test]
fn router_without_flows_leaves_nothing_pinned() {
    let mut pinned = Pinned::start();
    let pair = pinned.open_left();
    let address = pair.address;
    assert!(!pinned.bpffs.pinned().is_empty());
    drop(pair);
    assert_eq!(pinned.rig.access(address).reason, "done");
    pinned.rig.router.terminate(SOON);
    assert_eq!(pinned.bpffs.pinned(), Vec::<PathBuf>::new());
}

/// A second router on the same namespace takes over: connections are made all the while and none
/// fails; the first one ends by itself.
#[test]
fn next_router_takes_over_without_a_failed_connection() {
    let _alone = alone();
    let bpffs = Bpffs::mount();
    let rig = Rig::start(Datapath::Tc, &["--pin-dir", bpffs.dir()]);
    let mut pinned = Pinned { rig, bpffs };
    let old = pinned.open_left();
    let server = Server::spawn(pinned.rig.endpoint.try_clone().expect("clone"), echo);
    let (stop, made) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let (lab, stop, made) = (&pinned.rig.lab, &stop, &made);
        let clients: Vec<_> = (0..4)
            .map(|n| scope.spawn(move || round_trips(lab, n, stop, made)))
            .collect();
        more(made, 50);
        let next = pinned.next(&lab.admin_of("next"));
        more(made, 50);
        until("the first router ends", SOON, || {
            pinned.rig.router.has_ended()
        });
        more(made, 50);
        old.exchange();
        stop.store(true, Ordering::Relaxed);
        let failures: Vec<_> = clients
            .into_iter()
            .flat_map(|client| client.join().expect("a client"))
            .collect();
        let made = made.load(Ordering::Relaxed);
        // While both are there to say what they know.
        assert!(
            failures.is_empty(),
            "{} of {made}: {failures:?}",
            failures.len()
        );
        assert!(next.log().access().len() >= 50, "the next one serves");
        until("only the old connection is left", SOON, || {
            next.status()["connections"] == 1
        });
    });
    assert!(server.accepted() > 100);
    let status = pinned.rig.router.wait_exit(SOON);
    assert!(status.success(), "{status}");
}

/// All directions in the flow table of a router that pins here.
pub(super) fn flow_table(bpffs: &Bpffs) -> BTreeMap<FlowKey, Flow> {
    let pins = bpffs.pinned();
    let path = pins.iter().find(|path| path.ends_with(names::MAP_FLOWS));
    let data = MapData::from_pin(path.expect("a table")).expect("open the table");
    let map = HashMap::<_, FlowKey, Flow>::try_from(Map::HashMap(data)).expect("a hash");
    // An entry that goes while it is looked at is none any more.
    map.iter().filter_map(Result::ok).collect()
}

fn detach(rig: &Rig, dir: &str) -> Output {
    let mut command = Command::new(binary());
    command.args(["detach", "--pin-dir", dir]);
    let ns = &rig.lab.net.router;
    ns.run(|| command.output()).expect("start sni-router")
}

/// Sends everything back once the client has ended.
fn echo(stream: TcpStream) {
    let (bytes, end) = read_to_end(&stream, SOON);
    if end == End::Fin {
        write(&stream, &bytes);
    }
}

/// The next router of a lab, which pins there too.
pub(super) fn next(lab: &Lab, bpffs: &Bpffs, admin: &str) -> Router {
    let dir = bpffs.dir();
    let args = ["--pin-dir", dir, "--datapath", "tc", "--claim-vips"];
    lab.start_at(admin, &args)
}

/// Waits until so many more connections have been made.
#[track_caller]
fn more(made: &AtomicUsize, count: usize) {
    let before = made.load(Ordering::Relaxed);
    until("connections are made", SOON, || {
        made.load(Ordering::Relaxed) >= before + count
    });
}

/// Makes connections until it is told to stop, or nobody will any more. Answers with what failed.
fn round_trips(lab: &Lab, seed: u64, stop: &AtomicBool, made: &AtomicUsize) -> Vec<String> {
    let (mut failures, begun) = (Vec::new(), Instant::now());
    while !stop.load(Ordering::Relaxed) && begun.elapsed() < SOON * 6 {
        failures.extend(round_trip(lab, seed).err());
        made.fetch_add(1, Ordering::Relaxed);
    }
    failures
}

/// A whole connection to an [`echo`] server.
fn round_trip(lab: &Lab, seed: u64) -> Result<(), String> {
    let request = [hello(HOST), Pattern::new(seed).bytes(3000)].concat();
    let client = lab.connect(Family::V4);
    let (address, begun) = (client.local_addr(), Instant::now());
    write(&client, &request);
    client
        .shutdown(Shutdown::Write)
        .map_err(|e| e.to_string())?;
    match read_to_end(&client, SOON) {
        (answer, End::Fin) if answer == request => Ok(()),
        (answer, end) => {
            let (len, took) = (answer.len(), begun.elapsed());
            Err(format!(
                "{end:?} after {len} bytes and {took:?}, {address:?}"
            ))
        }
    }
}
