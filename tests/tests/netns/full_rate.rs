//! Twenty updates of a host under all the connections that this machine can make: no client notices one.

use std::mem;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use serde_json::Value;
use sni_router_tests::daemon::built;
use sni_router_tests::rig::{BACKEND_PORT, Lab, Pair, Rig, alone};
use sni_router_tests::site::PORT;
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until};

use crate::restart::{Pinned, next};

/// Connections are made by the generator of the benchmarks in a closed loop, and ended by FIN. Others live
/// through all of it and carry bytes all the while.
#[test]
fn twenty_routers_take_over_at_full_rate_without_a_failed_connection() {
    const TAKE_OVERS: u64 = 20;
    const LONG: usize = 8;
    let _alone = alone();
    let pinned = Pinned::start();
    let lab = &pinned.rig.lab;
    let endpoint = lab.net.endpoint(0, Family::V4, BACKEND_PORT + 1);
    let generation = pinned.rig.router.generation();
    Rig::site(lab)
        .route("*.bench.test", "two")
        .service("two", [endpoint])
        .write_to(&lab.manifests());
    pinned.rig.router.wait_for_generation_after(generation);
    // Clients end first, and their ports then rest for a minute: there are not enough for that.
    lab.net
        .client
        .sysctl("ipv4/ip_local_port_range", "1024 65535");
    lab.net.client.sysctl("ipv4/tcp_tw_reuse", "1");
    let mut serve = Command::new(built("sni-router-bench"));
    serve.arg("serve").arg("--listen").arg(endpoint.to_string());
    let serving = lab.net.backends[0].spawn(&mut serve);
    let _serving = Killed(serving.expect("the endpoint"));

    let pairs: Vec<_> = (0..LONG).map(|_| pinned.open_left()).collect();
    let Pinned { rig, bpffs } = pinned;
    let Rig {
        mut router, lab, ..
    } = rig;
    let (stop, made) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        // Also where one of the take-overs fails.
        let _stop = Stop(&stop);
        let (lab, stop, made) = (&lab, &stop, &made);
        let clients = scope.spawn(move || make_connections(lab, stop, made));
        let carried: Vec<_> = pairs
            .iter()
            .map(|pair| scope.spawn(move || exchanges(pair, stop)))
            .collect();
        for number in 0..TAKE_OVERS {
            let before = made.load(Ordering::Relaxed);
            let next = next(lab, &bpffs, &lab.admin_of(&format!("next-{number}")));
            let mut old = mem::replace(&mut router, next);
            let status = old.wait_exit(SOON);
            assert!(status.success(), "router {number}: {status}");
            until("connections go on", SOON, || {
                made.load(Ordering::Relaxed) > before || clients.is_finished()
            });
            assert!(!clients.is_finished(), "after {number} take-overs");
        }
        stop.store(true, Ordering::Relaxed);
        clients.join().expect("the clients");
        for carried in carried {
            let count = carried.join().expect("a long connection");
            assert!(count > TAKE_OVERS, "{count} exchanges");
        }
    });
    let made = made.into_inner();
    println!("{made} connections during {TAKE_OVERS} take-overs");
    assert!(made > 100 * TAKE_OVERS, "{made} connections");
    pairs.iter().for_each(Pair::exchange);
}

/// As many as can be made until it is told to stop. Panics when one fails.
fn make_connections(lab: &Lab, stop: &AtomicBool, made: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        let mut command = Command::new(built("sni-router-bench"));
        command
            .args(["load", "connect", "--close", "fin", "--streams", "32"])
            .args(["--hosts", "10", "--warm-up", "0", "--measure", "1000"])
            .arg("--to")
            .arg(format!("{}:{PORT}", Family::V4.vip()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = lab.net.client.spawn(&mut command);
        let output = child.and_then(Child::wait_with_output);
        let output = output.expect("run sni-router-bench");
        let report = serde_json::from_slice::<Value>(&output.stdout);
        let report = report.unwrap_or_else(|error| panic!("{error}: {output:?}"));
        assert_eq!(report["errors"], 0, "{report}");
        let count = report["count"].as_u64().expect("how many");
        made.fetch_add(count, Ordering::Relaxed);
    }
}

/// How many messages a connection has carried both ways until it is told to stop.
fn exchanges(pair: &Pair, stop: &AtomicBool) -> u64 {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        pair.exchange();
        count += 1;
        thread::yield_now();
    }
    count
}

/// Killed on drop.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Fails where it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Tells threads to stop on drop.
struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
