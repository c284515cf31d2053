//! What `/metrics` says, against what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rstest::rstest;
use serde_json::Value;
use sni_router_tests::bulk::{Pattern, receive, send};
use sni_router_tests::daemon::{Datapath, Router};
use sni_router_tests::documented;
use sni_router_tests::openmetrics::{Exposition, Labels};
use sni_router_tests::raw::{End, accept, hello, read_exactly, read_to_end, write};
use sni_router_tests::rig::{HOST, Lab, Pair, Rig, alone};
use sni_router_tests::server::Server;
use sni_router_tests::site::Site;
use sni_router_tests::topology::{Family, Leg};
use sni_router_tests::wait::{SOON, until};
use sni_router_tests::ways::{Way, Ways};
use sni_router_tests::wire::{Layer, Rates, Wire};
use socket2::SockRef;

use crate::restart::Pinned;

/// A scrape, checked.
#[track_caller]
fn scrape(router: &Router) -> Exposition {
    let text = router.get("/metrics").body;
    Exposition::parse(&text).unwrap_or_else(|what| panic!("{what}\n{text}"))
}

/// Bytes that a datapath has carried: up, down.
fn bytes(router: &Router, datapath: &str) -> [u64; 2] {
    ["up", "down"].map(|direction| {
        let labels = [("datapath", datapath), ("direction", direction)];
        router.metric("sni_router_bytes_total", &labels) as u64
    })
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn metrics_are_those_that_are_documented(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    let pair = rig.open();
    let stranger = rig.lab.connect(Family::V4);
    write(&stranger, &hello("nobody.example.com"));
    read_to_end(&stranger, SOON);
    let found = scrape(&rig.router);
    let documented = documented::metrics();
    let families: BTreeMap<_, _> = documented
        .iter()
        .map(|(name, metric)| (metric.family(name), metric))
        .collect();
    for (name, family) in &found.families {
        let metric = families.get(&**name);
        let metric = metric.unwrap_or_else(|| panic!("{name} is not in docs/metrics.md"));
        assert_eq!(family.kind, metric.kind, "{name}");
        for sample in &family.samples {
            let labels = sample.labels.keys().filter(|label| *label != "le");
            let labels: BTreeSet<_> = labels.cloned().collect();
            assert_eq!(labels, metric.labels, "{name}");
        }
    }
    for name in families.keys() {
        assert!(found.families.contains_key(*name), "there is no {name}");
    }
    drop(pair);
}

/// Nothing is under way when the endpoint has read all; so the numbers are exact, and not only in the
/// end.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn bytes_are_counted_while_connections_live_and_once(#[case] datapath: Datapath) {
    const PIECE: usize = 3 << 20;
    let rig = Rig::start(datapath, &[]);
    assert_eq!(bytes(&rig.router, datapath.name()), [0, 0], "the self-test");
    let mut pair = rig.open();
    let check = |what: &str, pair: &Pair| {
        let expected = [pair.up, pair.down];
        until(what, SOON, || {
            let now = bytes(&rig.router, datapath.name());
            assert!(
                now[0] <= expected[0] && now[1] <= expected[1],
                "{what}: {now:?} is more than {expected:?}"
            );
            now == expected
        });
    };
    check("the hello and a byte", &pair);
    for round in 0..4 {
        let piece = Pattern::new(round).bytes(PIECE);
        for (from, to) in [(&pair.client, &pair.server), (&pair.server, &pair.client)] {
            thread::scope(|scope| {
                scope.spawn(|| write(from, &piece));
                assert!(read_exactly(to, PIECE, SOON) == piece);
            });
        }
        pair.up += PIECE as u64;
        pair.down += PIECE as u64;
        check("another piece each way", &pair);
    }
    pair.client.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(&pair.server, SOON), (Vec::new(), End::Fin));
    pair.server.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(&pair.client, SOON), (Vec::new(), End::Fin));
    let access = rig.access(pair.address);
    assert_eq!([access.bytes_up, access.bytes_down], [pair.up, pair.down]);
    // FINs are no bytes.
    assert_eq!(bytes(&rig.router, datapath.name()), [pair.up, pair.down]);
}

/// While both sides send at full speed the numbers grow, and in the end they are what the records say.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn bytes_grow_during_transfers_and_end_as_the_records_say(#[case] datapath: Datapath) {
    const LEN: u64 = 256 << 20;
    let _alone = alone();
    let rig = Rig::start(datapath, &[]);
    let pairs: Vec<Pair> = (0..2).map(|_| rig.open()).collect();
    let running = &AtomicUsize::new(0);
    let seen = thread::scope(|scope| {
        for (n, pair) in (0..).zip(&pairs) {
            for (from, to) in [(&pair.client, &pair.server), (&pair.server, &pair.client)] {
                running.fetch_add(1, Ordering::Relaxed);
                scope.spawn(move || {
                    send(from, Pattern::new(n), LEN).expect("send");
                    from.shutdown(Shutdown::Write).expect("shutdown");
                });
                scope.spawn(move || {
                    let (received, end) = receive(to, SOON * 6);
                    assert_eq!((received.len, end), (LEN, End::Fin));
                    running.fetch_sub(1, Ordering::Relaxed);
                });
            }
        }
        let mut seen = Vec::new();
        while running.load(Ordering::Relaxed) > 0 {
            let now = bytes(&rig.router, datapath.name());
            if seen.last() != Some(&now) {
                seen.push(now);
            }
        }
        seen
    });
    assert!(seen.len() > 5, "{seen:?}");
    assert!(
        seen.is_sorted_by(|a, b| a[0] <= b[0] && a[1] <= b[1]),
        "{seen:?}"
    );
    let mut sums = [0, 0];
    for pair in &pairs {
        let access = rig.access(pair.address);
        assert_eq!(access.bytes_up, pair.up + LEN, "{access:?}");
        assert_eq!(access.bytes_down, pair.down + LEN, "{access:?}");
        sums[0] += access.bytes_up;
        sums[1] += access.bytes_down;
    }
    until("all bytes are counted, and no more", SOON, || {
        bytes(&rig.router, datapath.name()) == sums
    });
}

/// What is sent again is no byte more.
#[test]
fn bytes_of_a_lossy_wire_are_counted_once() {
    const LEN: u64 = 4 << 20;
    let _alone = alone();
    let lab = Lab::new(1);
    let wires = [Leg::Client, Leg::Backend(0)].map(|leg| Wire::lay(&lab.net, leg, Layer::Ether, 1));
    let ways = Ways::start(lab);
    let pair = ways.open(Way::Routed, Family::V4);
    let lossy = Rates {
        loss: 20,
        duplication: 20,
        ..Rates::default()
    };
    wires.iter().for_each(|wire| wire.impair(lossy));
    for (from, to) in [(&pair.client, &pair.server), (&pair.server, &pair.client)] {
        thread::scope(|scope| {
            scope.spawn(|| {
                send(from, Pattern::new(1), LEN).expect("send");
                from.shutdown(Shutdown::Write).expect("shutdown");
            });
            let (received, end) = receive(to, SOON * 6);
            assert_eq!((received.len, end), (LEN, End::Fin));
        });
    }
    wires.iter().for_each(|wire| wire.impair(Rates::default()));
    let access = ways.access(pair.address, &[]);
    let recorded = [access.bytes_up, access.bytes_down];
    assert_eq!(recorded, [pair.up + LEN, pair.down + LEN], "{access:?}");
    assert_eq!(bytes(&ways.router, "tc"), recorded);
}

/// The next router counts what its own programs see, and nothing twice.
#[test]
fn adopted_flows_are_counted_from_then_on() {
    const LEN: usize = 100_000;
    let mut pinned = Pinned::start();
    let pair = pinned.rig.open();
    let up = |router: &Router| bytes(router, "tc")[0];
    until("the hello is counted", SOON, || {
        up(&pinned.rig.router) == pair.up
    });
    pinned.rig.router.terminate(SOON);
    pinned.rig.router = pinned.next(&pinned.rig.lab.admin());
    let router = &pinned.rig.router;
    assert_eq!(router.metric("sni_router_flows_adopted_total", &[]), 1.0);
    let active = router.metric("sni_router_connections_active", &[("datapath", "tc")]);
    assert_eq!((active, up(router)), (1.0, 0));
    let listener = || {
        let listed: Value =
            serde_json::from_str(&router.get("/api/v1/listeners").body).expect("JSON");
        listed[0]["active"].clone()
    };
    until("it is known whose it is", SOON, || listener() == 1);
    write(&pair.client, &vec![7; LEN]);
    read_exactly(&pair.server, LEN, SOON);
    assert_eq!(up(router), LEN as u64);
    let entries = router.metric("sni_router_map_entries", &[("map", "SNI_FLOWS")]);
    assert_eq!(entries, 2.0);
    let address = pair.address;
    drop(pair);
    let access = pinned.rig.access(address);
    assert!(access.bytes_up > LEN as u64, "{access:?}");
    assert_eq!(access.listener, "default/web");
    assert_eq!(up(router), LEN as u64);
    let closed = [("listener", "default/web"), ("datapath", "tc")];
    assert_eq!(
        router.metric("sni_router_connections_closed_total", &closed),
        1.0
    );
    assert_eq!(listener(), 0);
}

#[test]
fn connections_are_counted_by_host_also_of_routes_that_are_gone() {
    let lab = Lab::new(1);
    let endpoint = lab.listen(0);
    let nobody = lab.net.endpoint(0, Family::V4, 1);
    let site = |hosts: &[(&str, &str)]| {
        let site = Site::new()
            .service("one", [lab.endpoint(0)])
            .service("down", [nobody]);
        let site = hosts
            .iter()
            .fold(site, |site, (host, service)| site.route(host, service));
        site.write_to(&lab.manifests());
    };
    site(&[(HOST, "one"), ("*.wild.test", "one"), ("down.test", "down")]);
    let router = lab.start(Datapath::Userspace, &[]);
    let open = |host: &str| Pair::greet(lab.connect(Family::V4), &hello(host), &endpoint);
    let count = |name: &str, host: &str, more: &[(&str, &str)]| {
        let name = format!("sni_router_host_connections_{name}_total");
        let labels = [&[("host", host), ("listener", "default/web")], more].concat();
        router.metric(&name, &labels)
    };
    let kept = open(HOST);
    for host in [HOST, "a.wild.test", "b.wild.test"] {
        drop(open(host));
    }
    for host in ["down.test", "stranger.test"] {
        let client = lab.connect(Family::V4);
        write(&client, &hello(host));
        read_to_end(&client, SOON);
    }
    let carried = [("outcome", "carried")];
    until("all but one are closed", SOON, || {
        count("closed", HOST, &carried) == 1.0 && count("closed", "*.wild.test", &carried) == 2.0
    });
    assert_eq!(count("opened", HOST, &[]), 2.0);
    assert_eq!(count("opened", "*.wild.test", &[]), 2.0);
    assert_eq!(count("closed", "down.test", &[("outcome", "failed")]), 1.0);
    assert_eq!(count("closed", "down.test", &carried), 0.0);
    // A client cannot make a time series.
    assert!(!router.get("/metrics").body.contains("stranger"));

    let before = router.generation();
    site(&[("new.test", "one")]);
    router.wait_for_generation_after(before);
    drop(kept);
    until(
        "a connection of a route that is gone is closed",
        SOON,
        || count("closed", HOST, &carried) == 2.0,
    );
    assert_eq!(count("opened", "new.test", &[]), 0.0);
    let before = router.generation();
    site(&[(HOST, "one")]);
    router.wait_for_generation_after(before);
    drop(open(HOST));
    assert_eq!(count("opened", HOST, &[]), 3.0);
}

#[test]
fn endpoint_that_refuses_is_told_by_its_address() {
    let lab = Lab::new(2);
    let up = lab.listen(1);
    Site::new()
        .route(HOST, "one")
        .service("one", [lab.endpoint(0), lab.endpoint(1)])
        .write_to(&lab.manifests());
    let router = lab.start(Datapath::Userspace, &[]);
    let of = |name: &str, backend: u8, more: &[(&str, &str)]| {
        let endpoint = lab.endpoint(backend).to_string();
        let labels = [("service", "default/one:tls"), ("endpoint", &*endpoint)];
        let name = format!("sni_router_endpoint_{name}");
        router.metric(&name, &[&labels, more].concat())
    };
    let mut pairs = Vec::new();
    until("the endpoint that refuses was tried", SOON, || {
        let client = lab.connect(Family::V4);
        write(&client, &hello(HOST));
        pairs.push((client, accept(&up, SOON)));
        of("connects_total", 0, &[("result", "failed")]) > 0.0
    });
    assert_eq!(of("in_doubt", 0, &[]), 1.0);
    assert_eq!(of("in_doubt", 1, &[]), 0.0);
    assert_eq!(of("connects_total", 0, &[("result", "connected")]), 0.0);
    let count = pairs.len() as f64;
    until("all are connected", SOON, || {
        of("connects_total", 1, &[("result", "connected")]) == count
            && of("connections_active", 1, &[]) == count
    });
    assert!(of("connect_seconds_total", 1, &[]) > 0.0);
    let refused = [("kind", "refused")];
    assert_eq!(
        router.metric("sni_router_connect_failures_total", &refused),
        router.metric("sni_router_retries_total", &[])
    );
    drop(pairs);
    until("none is active", SOON, || {
        of("connections_active", 1, &[]) == 0.0
    });
}

#[test]
fn drops_of_the_kernel_programs_are_told() {
    let rig = Rig::start(Datapath::Tc, &[]);
    let events = |program, event| {
        let labels = [("program", program), ("event", event)];
        rig.router.metric("sni_router_kernel_events_total", &labels)
    };
    assert_eq!(events("lookup", "steered"), 0.0);
    let pair = rig.open();
    // SYN only: what comes behind it finds the connection without a look-up.
    assert!(events("lookup", "steered") >= 1.0);
    until("packets are redirected", SOON, || {
        pair.exchange();
        events("tc", "redirected") > 0.0
    });
    assert_eq!(events("tc", "ttl_exceeded"), 0.0);
    SockRef::from(&pair.client)
        .set_ttl_v4(1)
        .expect("set the TTL");
    write(&pair.client, b"too far");
    until("a packet has come too far", SOON, || {
        events("tc", "ttl_exceeded") > 0.0 && events("tc", "answered") > 0.0
    });
    let fill = |name: &str, map| rig.router.metric(name, &[("map", map)]);
    assert_eq!(fill("sni_router_map_entries", "SNI_FLOWS"), 2.0);
    // Two VIPs.
    assert_eq!(fill("sni_router_map_entries", "SNI_RULES"), 2.0);
    assert!(fill("sni_router_map_capacity", "SNI_FLOWS") > 1e5);
}

#[test]
fn hellos_that_are_waited_for_are_told() {
    let rig = Rig::start(Datapath::Userspace, &["--max-pending-hellos", "5"]);
    let gauge = |name| rig.router.metric(name, &[]);
    assert_eq!(gauge("sni_router_hellos_pending_limit"), 5.0);
    let silent: Vec<_> = (0..3).map(|_| rig.lab.connect(Family::V4)).collect();
    until("three are waited for", SOON, || {
        gauge("sni_router_hellos_pending") == 3.0
    });
    drop(silent);
    until("none is waited for", SOON, || {
        gauge("sni_router_hellos_pending") == 0.0
    });
}

/// Every scrape is valid, and no counter falls from one to the next.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::tc(Datapath::Tc)]
fn scrapes_are_valid_while_connections_come_and_go(#[case] datapath: Datapath) {
    const CONNECTIONS: usize = 3000;
    const CLIENTS: usize = 4;
    const SCRAPES: usize = 20;
    let _alone = alone();
    let rig = Rig::start(datapath, &[]);
    let (hello, started) = (hello(HOST), AtomicUsize::new(0));
    let length = hello.len();
    let server = Server::spawn(
        rig.endpoint.try_clone().expect("clone the listener"),
        move |stream: TcpStream| {
            read_exactly(&stream, length, SOON);
            write(&stream, b"!");
            stream.shutdown(Shutdown::Write).expect("shutdown");
            read_to_end(&stream, SOON);
        },
    );
    let is_enough = AtomicBool::new(false);
    let client = || {
        // As many as it takes for enough scrapes to meet them.
        while started.fetch_add(1, Ordering::Relaxed) < CONNECTIONS
            || !is_enough.load(Ordering::Relaxed)
        {
            let client = rig.lab.connect(Family::V4);
            write(&client, &hello);
            assert_eq!(read_to_end(&client, SOON), (b"!".to_vec(), End::Fin));
        }
    };
    let (scrapes, took) = thread::scope(|scope| {
        let begin = std::time::Instant::now();
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let mut before: BTreeMap<(String, Labels), f64> = BTreeMap::new();
        let mut scrapes = 0;
        while !clients.iter().all(|client| client.is_finished()) {
            let now = scrape(&rig.router).counters();
            for (series, value) in &before {
                let later = now.get(series);
                assert!(
                    later.is_some_and(|it| it >= value),
                    "{series:?}: {value}, {later:?}"
                );
            }
            before = now;
            scrapes += 1;
            is_enough.store(scrapes >= SCRAPES, Ordering::Relaxed);
        }
        (scrapes, begin.elapsed())
    });
    server.check();
    let count = started.load(Ordering::Relaxed) - CLIENTS;
    let changes = 2.0 * count as f64 / took.as_secs_f64();
    eprintln!("{scrapes} scrapes during {changes:.0} changes a second");
    until("all are counted", SOON, || {
        let closed = [("datapath", datapath.name()), ("reason", "done")];
        let closed = rig
            .router
            .metric("sni_router_connections_closed_total", &closed);
        let opened = rig
            .router
            .metric("sni_router_host_connections_opened_total", &[]);
        closed == count as f64 && opened == count as f64
    });
}
