//! A million flows, and what they cost. Run by hand:
//!
//! ```text
//! cargo xtask build
//! SNI_ROUTER_BIN=$PWD/target/release/sni-router \
//!     cargo test -p sni-router-tests --test netns million -- --ignored --nocapture
//! ```

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, IterableMap as _, Map, MapData};
use sni_router_common::flow::{Flow, FlowKey, ports, v4};
use sni_router_common::names;
use sni_router_tests::daemon::Router;
use sni_router_tests::rig::alone;
use sni_router_tests::wait::SOON;

use crate::restart::{Pinned, flow_table};

const FLOWS: u32 = 1_000_000;
const FIRST_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);
const FIRST_ENDPOINT: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 0);

/// Of the router's, towards each endpoint.
const PORTS: u32 = 20_000;
const FIRST_PORT: u16 = 10_000;

/// How long the router is watched: longer than it rests, or it would depend on luck how often it looks at
/// all flows.
const WATCHED: Duration = Duration::from_secs(600);

/// The table of a router that was killed, with room to be filled.
struct Table(HashMap<MapData, FlowKey, Flow>);

impl Table {
    fn open(pinned: &Pinned) -> Self {
        let pins = pinned.bpffs.pinned();
        let path = pins.iter().find(|path| path.ends_with(names::MAP_FLOWS));
        let data = MapData::from_pin(path.expect("a table")).expect("open the table");
        Self(HashMap::try_from(Map::HashMap(data)).expect("a hash"))
    }

    /// Adds flows like this one, each from a client of its own.
    fn fill(&mut self, [up, down]: [Flow; 2]) {
        for number in 0..FLOWS {
            let client = v4((FIRST_CLIENT.to_bits() + number).to_be());
            let endpoint = v4((FIRST_ENDPOINT.to_bits() + number / PORTS).to_be());
            let port = FIRST_PORT + (number % PORTS) as u16;
            let id = up.id.wrapping_add(1 + number);
            let up = Flow {
                dst: endpoint,
                ports: ports(port, 8443),
                id,
                ..up
            };
            let down = Flow {
                dst: client,
                ports: ports(443, 40_000),
                id,
                ..down
            };
            for (key, flow) in [(FlowKey::answers(&down), up), (FlowKey::answers(&up), down)] {
                self.0.insert(key, flow, 0).expect("room for a million");
            }
        }
    }

    /// What the kernel has taken for it, in bytes.
    fn memory(&self) -> u64 {
        let map = self.0.map().fd().as_fd().as_raw_fd();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{map}")).expect("fdinfo");
        let line = info.lines().find_map(|line| line.strip_prefix("memlock:"));
        let bytes = line.expect("memlock").trim();
        bytes.parse().expect("a number")
    }
}

/// CPU time that a router has taken so far.
fn cpu(router: &Router) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", router.pid())).expect("it runs");
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    // utime and stime, the 14th and 15th, in ticks of 10 ms (proc_pid_stat(5)).
    let times = fields.split(' ').skip(11).take(2);
    let ticks: u64 = times
        .map(|ticks| ticks.parse::<u64>().expect("ticks"))
        .sum();
    Duration::from_millis(10 * ticks)
}

#[test]
#[ignore = "takes minutes, and 1 GB"]
fn million_flows_are_adopted_and_looked_after() {
    let _alone = alone();
    let mut pinned = Pinned::start();
    let real = pinned.open_left();
    pinned.rig.router.kill();
    let flows: Vec<_> = flow_table(&pinned.bpffs).into_values().collect();
    let side = |is_up| *flows.iter().find(|flow| flow.up == is_up).expect("a flow");
    let mut table = Table::open(&pinned);
    let empty = table.memory();
    table.fill([side(1), side(0)]);
    let filled = table.memory();

    let begin = Instant::now();
    pinned.rig.router = pinned.next(&pinned.rig.lab.admin());
    let ready = begin.elapsed();
    let router = &pinned.rig.router;
    assert_eq!(router.status()["connections"], FLOWS + 1);
    let before = cpu(router);
    thread::sleep(WATCHED);
    let spent = cpu(router) - before;
    let share = 100.0 * spent.as_secs_f64() / WATCHED.as_secs_f64();
    eprintln!(
        "{FLOWS} flows: {} MB in the kernel, {} MB of it for none; router ready after {ready:?} and \
         {before:?} of CPU, resident {} MB; then {spent:?} in {WATCHED:?}, {share:.2} % of a CPU",
        filled / 1_000_000,
        empty / 1_000_000,
        router.resident() / 1_000_000,
    );
    real.exchange();
    let address = real.address;
    drop(real);
    let access = pinned.rig.router.log().access_of(address, SOON * 10);
    assert_eq!(access.datapath, "tc", "{access:?}");
    let new = pinned.open_left();
    new.exchange();
}
