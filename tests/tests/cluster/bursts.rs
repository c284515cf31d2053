//! Thousands of changes within a moment, and changes that never end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use kube::Client;
use rustix::process::Signal;
use sni_router_tests::cluster::applications::{ingress, put, slice};
use sni_router_tests::daemon::Router;
use sni_router_tests::rig::alone;
use sni_router_tests::site::Site;
use sni_router_tests::wait::until;

use crate::status::LISTENER;
use crate::town::{Town, ingress_class};

const HOST: &str = "one.example.com";

/// Once as they come, while the router builds; and once with all of them waiting for it.
#[test]
fn burst_of_changes_ends_in_the_last_state_after_few_rebuilds() {
    let _alone = alone();
    let (town, router) = many(1);
    let _server = town.serve(0, HOST);
    for (last, is_stopped) in [(ROUNDS, false), (2 * ROUNDS, true)] {
        let before = router.generation();
        if is_stopped {
            router.signal(Signal::STOP);
        }
        let mut began = Instant::now();
        let client = town.control.client();
        town.control.run(async move {
            let each = futures_util::stream::iter(0..APPLICATIONS);
            each.for_each_concurrent(64, |n| change(client.clone(), n, last - ROUNDS + 1..=last))
                .await;
        });
        let written = began.elapsed();
        if is_stopped {
            began = Instant::now();
            router.signal(Signal::CONT);
        }
        until("the last state is served", LONG, || is_at(&router, last));
        let generations = router.generation() - before;
        println!("{CHANGES} changes, written in {written:?}, made {generations} generations");
        // They are a tenth of a second apart.
        let most = began.elapsed().as_millis() / 100 + 2;
        assert!(u128::from(generations) <= most, "{generations} of {most}");
        let few = u64::from(CHANGES / 10);
        assert!((1..few).contains(&generations), "{generations}");
    }
    town.wait_served(HOST, 0);
}

#[test]
fn change_is_served_and_told_while_others_never_end() {
    let _alone = alone();
    let (town, router) = many(2);
    let _servers = [town.serve(0, HOST), town.serve(1, HOST)];
    let (is_over, count) = (AtomicBool::default(), AtomicU64::default());
    let flood = Arc::new((is_over, count));
    let before = router.generation();
    thread::scope(|scope| {
        let (client, shared) = (town.control.client(), Arc::clone(&flood));
        scope.spawn(|| {
            town.control.run(async move {
                let rounds = futures_util::stream::iter(1_u32..);
                let rounds = rounds.take_while(|_| {
                    let goes_on = !shared.0.load(Ordering::Relaxed);
                    std::future::ready(goes_on)
                });
                let one = |round| {
                    let (client, shared) = (client.clone(), Arc::clone(&shared));
                    async move {
                        let n = round % APPLICATIONS;
                        let (path, slice) = slice_of(n, round % 250);
                        put(&client, &path, &slice).await;
                        shared.1.fetch_add(1, Ordering::Relaxed);
                    }
                };
                rounds.for_each_concurrent(16, one).await;
            });
        });
        // Also when something fails, since the scope waits for the flood.
        let _over = Over(&flood.0);
        for round in 1..=5_u8 {
            let so_far = flood.1.load(Ordering::Relaxed);
            let hosts = (0..round).map(|n| format!("more-{n}.example.com"));
            let site = hosts.fold(site(&town, round % 2), |site, host| {
                site.route(&host, "one")
            });
            town.store(&site);
            town.wait_served(HOST, round % 2);
            let routes = APPLICATIONS + u32::from(round) + 1;
            town.wait_for(LISTENER, "its status follows", |listener| {
                listener["status"]["attachedRoutes"] == routes
            });
            let goes_on = || flood.1.load(Ordering::Relaxed) > so_far;
            until("the flood goes on", LONG, goes_on);
        }
    });
    let (changes, generations) = (
        flood.1.load(Ordering::Relaxed),
        router.generation() - before,
    );
    println!("{changes} changes made {generations} generations");
    assert!(generations < changes, "{generations} of {changes}");
}

/// Ends the flood.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Many applications beside the site, and a router that serves them.
#[track_caller]
fn many(backends: u8) -> (Town, Router) {
    let town = Town::new(backends);
    town.put(&ingress_class());
    town.store(&site(&town, 0));
    town.control.store_applications(APPLICATIONS);
    let router = town.start(&["--update-ingress-status", "false"]);
    (town, router)
}

/// Changes an application again and again, its host and its endpoint.
async fn change(client: Client, n: u32, rounds: std::ops::RangeInclusive<u32>) {
    let name = format!("app-{n}");
    for round in rounds {
        let path = format!("/apis/networking.k8s.io/v1/namespaces/default/ingresses/{name}");
        put(
            &client,
            &path,
            &ingress(&name, &format!("{name}-{round}.example.com")),
        )
        .await;
        let (path, slice) = slice_of(n, round);
        put(&client, &path, &slice).await;
    }
}

/// The endpoints of an application in a round.
fn slice_of(n: u32, round: u32) -> (String, serde_json::Value) {
    let (service, name) = (format!("app-{n}"), format!("app-{n}-1"));
    let address = format!("10.{round}.{}.{}", n / 250, n % 250 + 1);
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/{name}");
    (path, slice(&name, &service, &[address]))
}

/// Whether every application has the host and the endpoint of this round, and none another.
fn is_at(router: &Router, round: u32) -> bool {
    let hosts = router.get("/api/v1/routes").body;
    let endpoints = router.get("/api/v1/backends").body;
    let has = |text: &str, part: &str| text.matches(part).count() == APPLICATIONS as usize;
    has(&hosts, &format!("-{round}.example.com"))
        && has(&hosts, "\"app-")
        && has(&endpoints, &format!("\"10.{round}."))
        && has(&endpoints, "\"10.")
}

fn site(town: &Town, backend: u8) -> Site {
    Site::new()
        .route(HOST, "one")
        .service("one", [town.lab.endpoint(backend)])
}

const APPLICATIONS: u32 = 200;
const ROUNDS: u32 = 10;

/// Of a burst: an Ingress and an EndpointSlice each.
const CHANGES: u32 = 2 * APPLICATIONS * ROUNDS;

const LONG: Duration = Duration::from_secs(60);
