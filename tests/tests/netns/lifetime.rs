//! Time limits of connections, and the end of the router itself.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rstest::rstest;
use rustix::process::Signal;
use sni_router_tests::daemon::Datapath;
use sni_router_tests::raw::{End, hello, nothing_comes, read_exactly, read_to_end, write};
use sni_router_tests::rig::{HOST, Pair, Rig};
use sni_router_tests::site::PORT;
use sni_router_tests::topology::{Family, VIP4, VIP6};
use sni_router_tests::wait::{SOON, until};

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn idle_connection_is_ended(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &["--idle-timeout", "1s"]);
    let pair = rig.open();
    pair.exchange();
    let begin = Instant::now();
    read_to_end(&pair.client, SOON);
    let idle = begin.elapsed();
    read_to_end(&pair.server, SOON);
    assert!(idle >= Duration::from_millis(900), "after {idle:?}");
    assert!(idle < Duration::from_secs(4), "after {idle:?}");
    let access = rig.access(pair.address);
    assert_eq!(access.reason, "idle_timeout", "{access:?}");
}

/// Bytes in one direction only are enough, in either.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn connection_in_use_is_not_idle(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &["--idle-timeout", "1s"]);
    let pair = rig.open();
    for (from, to) in [(&pair.client, &pair.server), (&pair.server, &pair.client)] {
        for _ in 0..8 {
            write(from, b"x");
            assert_eq!(read_exactly(to, 1, SOON), b"x");
            assert!(nothing_comes(to, Duration::from_millis(300)), "ended");
        }
    }
    let address = pair.address;
    drop(pair);
    assert_eq!(rig.access(address).reason, "done");
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn connection_is_ended_at_its_maximum_duration(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &["--max-duration", "1s"]);
    let pair = rig.open();
    let begin = Instant::now();
    while nothing_comes(&pair.client, Duration::from_millis(50)) {
        assert!(begin.elapsed() < SOON, "it is never ended");
        write(&pair.client, b"x");
    }
    assert!(
        begin.elapsed() >= Duration::from_millis(900),
        "{:?}",
        begin.elapsed()
    );
    assert!(
        begin.elapsed() < Duration::from_secs(4),
        "{:?}",
        begin.elapsed()
    );
    read_to_end(&pair.server, SOON);
    let access = rig.access(pair.address);
    assert_eq!(access.reason, "max_duration", "{access:?}");
}

/// After SIGTERM: running connections go on, new ones are not taken, and the router leaves as soon
/// as the last has ended.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn drain_lets_connections_finish(#[case] datapath: Datapath) {
    let mut rig = Rig::start(datapath, &["--drain-timeout", "30s"]);
    let pair = rig.open();
    pair.exchange();
    rig.router.signal(Signal::TERM);
    until("new connections are refused", SOON, || {
        let to = SocketAddr::new(VIP4, PORT);
        let new = rig.lab.net.client.connect(to, Duration::from_millis(500));
        new.is_err()
    });
    for _ in 0..5 {
        pair.exchange();
    }
    let address = pair.address;
    drop(pair);
    let access = rig.access(address);
    assert_eq!(access.reason, "done", "{access:?}");
    let status = rig.router.wait_exit(SOON);
    assert!(status.success(), "{status}");
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn drain_ends_what_is_left_at_its_timeout(#[case] datapath: Datapath) {
    let mut rig = Rig::start(datapath, &["--drain-timeout", "1s"]);
    let pair = rig.open();
    pair.exchange();
    let begin = Instant::now();
    rig.router.terminate(SOON);
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(900), "after {took:?}");
    assert!(took < Duration::from_secs(5), "after {took:?}");
    read_to_end(&pair.client, SOON);
    read_to_end(&pair.server, SOON);
    let access = rig.access(pair.address);
    assert_eq!(access.reason, "drained", "{access:?}");
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn idle_router_leaves_at_once_and_takes_its_routes_along(#[case] datapath: Datapath) {
    let mut rig = Rig::start(datapath, &[]);
    assert_eq!(claimed(&rig), [VIP4.to_string(), VIP6.to_string()].into());
    let begin = Instant::now();
    rig.router.terminate(SOON);
    assert!(
        begin.elapsed() < Duration::from_secs(3),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(claimed(&rig), BTreeSet::new());
}

/// kill -9 with connections open, and the next router on the same VIPs, twice.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn killed_router_blocks_nothing(#[case] datapath: Datapath) {
    let mut rig = Rig::start(datapath, &[]);
    for _ in 0..2 {
        let programs = programs_of(rig.router.pid());
        assert_eq!(programs.is_empty(), datapath == Datapath::Userspace);
        let pairs: Vec<Pair> = (0..5).map(|_| rig.open()).collect();
        pairs.iter().for_each(Pair::exchange);
        rig.router.kill();
        let gone = || loaded_programs().is_disjoint(&programs);
        if datapath == Datapath::Tc {
            // Until then packets still go through.
            until("the programs are gone", SOON, gone);
        }
        for pair in &pairs {
            // No socket dies with the router that carried packets. Whoever speaks next is told.
            let is_tc = datapath == Datapath::Tc;
            let ends = [&pair.client, &pair.server].map(|mut side| {
                // Told already, if the connection was being handed over.
                match is_tc && side.write(b"?").is_err() {
                    true => End::Reset,
                    false => read_to_end(side, SOON).1,
                }
            });
            if datapath == Datapath::Tc {
                assert_eq!(ends, [End::Reset; 2]);
            }
        }
        drop(pairs);

        rig.router = rig.lab.start(datapath, &[]);
        for _ in 0..5 {
            rig.open().exchange();
        }
        until("the programs of the killed router are gone", SOON, gone);
    }
    rig.router.terminate(SOON);
    assert_eq!(
        claimed(&rig),
        BTreeSet::new(),
        "routes of the killed router"
    );
}

/// Hellos that are still incomplete do not hold up the end.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn drain_does_not_wait_for_incomplete_hellos_beyond_their_limit(#[case] datapath: Datapath) {
    let args = ["--drain-timeout", "30s", "--hello-timeout", "1s"];
    let mut rig = Rig::start(datapath, &args);
    let client = rig.lab.connect(Family::V4);
    write(&client, &hello(HOST)[..20]);
    // The router has it: anything accepted later is served.
    rig.open().exchange();
    rig.router.terminate(SOON);
    read_to_end(&client, SOON);
}

/// The VIPs of the lab that the router's namespace has routes to itself for.
pub(super) fn claimed(rig: &Rig) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for family in ["-4", "-6"] {
        let ns = &rig.lab.net.router;
        let routes = ns.ip_output(&[family, "route", "show", "table", "local"]);
        for vip in [VIP4, VIP6].map(|vip| vip.to_string()) {
            if routes.split_whitespace().any(|word| word == vip) {
                found.insert(vip);
            }
        }
    }
    found
}

/// The BPF programs a process holds, by id.
fn programs_of(pid: u32) -> BTreeSet<u32> {
    let directory = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("the process runs");
    let mut ids = BTreeSet::new();
    for entry in directory.flatten() {
        // A descriptor may be closed meanwhile.
        let info = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let id = info.lines().find_map(|line| line.strip_prefix("prog_id:"));
        ids.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
    }
    ids
}

/// All BPF programs of the kernel, by id.
fn loaded_programs() -> BTreeSet<u32> {
    aya::programs::loaded_programs()
        .filter_map(|program| Some(program.ok()?.id()))
        .collect()
}
