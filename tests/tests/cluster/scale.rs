//! Much, and fast.

use std::time::{Duration, Instant};

use serde_json::json;
use sni_router_tests::cluster::applications::{put, slice};
use sni_router_tests::rig::alone;
use sni_router_tests::site::Site;
use sni_router_tests::wait::until;

use crate::town::{Town, ingress_class};

const HOST: &str = "one.example.com";

/// 5,000 Ingresses and 20,000 endpoints. What it took is printed; the bounds
/// are loose, for an unoptimised build beside an API server on a busy machine.
#[test]
fn five_thousand_ingresses_are_served_soon_after_the_start() {
    let _alone = alone();
    let town = Town::new(2);
    let _servers = [town.serve(0, HOST), town.serve(1, HOST)];
    town.put(&ingress_class());
    town.store(&site(&town, 0));
    town.control.store_applications(INGRESSES);

    let began = Instant::now();
    let router = town.start(&["--update-ingress-status", "false"]);
    let started = began.elapsed();
    town.wait_served(HOST, 0);
    let resident = router.resident() >> 20;
    let objects = router.metric("sni_router_source_objects", &[("kind", "Ingress")]);
    assert!(objects >= f64::from(INGRESSES), "{objects}");

    let mut slowest = Duration::ZERO;
    for round in 0..10 {
        let backend = round % 2;
        town.store(&site(&town, 1 - backend));
        town.wait_served(HOST, 1 - backend);
        let changed = Instant::now();
        let generation = router.generation();
        town.store(&site(&town, backend));
        until("the change is applied", LONG, || {
            router.generation() > generation
        });
        slowest = slowest.max(changed.elapsed());
        town.wait_served(HOST, backend);
    }
    let most = router.resident() >> 20;
    println!(
        "start to serving: {started:?}; slowest change with five writes to the API: {slowest:?}; \
         resident: {resident} MiB at the start, {most} MiB at the end"
    );
    assert!(started < LONG, "{started:?}");
    assert!(most < 600, "{most} MiB");
}

/// A rolling restart of something large: the router keeps up, and its memory stays.
#[test]
fn endpoints_that_change_a_hundred_times_a_second_are_followed_to_the_last_one() {
    let town = Town::new(2);
    let _servers = [town.serve(0, HOST), town.serve(1, HOST)];
    town.put(&ingress_class());
    town.store(&site(&town, 0));
    let router = town.start(&[]);
    town.wait_served(HOST, 0);
    let before = (router.resident(), router.generation());
    let slice = |n: u32| {
        let address = format!("192.0.{}.{}", n / 250, n % 250 + 1);
        let mut slice = slice("one-0", "one", &[address]);
        slice["ports"] = json!([{"name": "tls", "port": 8443}]);
        slice
    };
    let client = town.control.client();
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/one-0";
    town.control.run(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        for n in 0..1000 {
            tick.tick().await;
            put(&client, path, &slice(n)).await;
        }
    });
    town.store(&site(&town, 1));
    town.wait_served(HOST, 1);
    let generations = router.generation() - before.1;
    println!("1,000 changes made {generations} generations");
    assert!(generations > 1 && generations < 500, "{generations}");
    let grown = router.resident().saturating_sub(before.0) >> 20;
    assert!(grown < 50, "{grown} MiB more");
}

fn site(town: &Town, backend: u8) -> Site {
    Site::new()
        .route(HOST, "one")
        .service("one", [town.lab.endpoint(backend)])
}

const INGRESSES: u32 = 5000;

const LONG: Duration = Duration::from_secs(60);
