//! Several clusters behind one router.

use std::fs;
use std::path::Path;

use serde_json::json;
use sni_router_tests::cluster::ControlPlane;
use sni_router_tests::cluster::objects::DryRun;
use sni_router_tests::daemon::Router;
use sni_router_tests::site::Site;
use sni_router_tests::wait::{SOON, until};

use crate::manifests::crd;
use crate::status::{LISTENER, SLOW, get};
use crate::town::{Town, ingress_class};

const EAST: &str = "east.example.com";
const WEST: &str = "west.example.com";

/// A VIP each is not needed: both have the Listener with `multicluster`, and a host of their own.
#[test]
fn each_cluster_keeps_its_routes_when_another_is_lost_emptied_or_taken_away() {
    let town = Town::new(2);
    let mut west = ControlPlane::start_in(&town.lab.net.router);
    west.apply(&crd());
    let _servers = [town.serve(0, EAST), town.serve(1, WEST)];
    fill(&town.control, &site(&town, EAST, 0));
    fill(&west, &site(&town, WEST, 1));
    let directory = town.lab.dir().join("clusters");
    fs::create_dir(&directory).unwrap();
    add(&directory, "west", &west);
    let east = format!("east={}", town.control.kubeconfig().display());
    let args = [
        "--cluster",
        &east,
        "--clusters-dir",
        directory.to_str().unwrap(),
    ];

    let mut router = town.start(&args);
    town.wait_served(EAST, 0);
    town.wait_served(WEST, 1);
    for control in [&town.control, &west] {
        until("each Listener has its status", SLOW, || {
            get(control, LISTENER)["status"]["state"] == "Served"
        });
    }

    // Lost: what it said stays, and the other one still changes.
    west.kill();
    until("west is stale", SLOW, || stale(&router, "west"));
    assert!(!stale(&router, "east"));
    town.wait_served(WEST, 1);
    fill(
        &town.control,
        &site(&town, EAST, 0).route("more.example.com", "one"),
    );
    until("east has another route", SOON, || {
        router.metric("sni_router_source_stale", &[("cluster", "east")]) < 0.5
            && routes(&router) == 3
    });

    // A router that starts meanwhile has both: one from disk.
    router.terminate(SOON);
    let router = town.start(&args);
    town.wait_served(EAST, 0);
    town.wait_served(WEST, 1);

    // Emptied: the other one stays.
    west.restart();
    until("west is up to date", SLOW, || !stale(&router, "west"));
    delete(&west, LISTENER);
    town.wait_refused(WEST);
    town.wait_served(EAST, 0);
    fill(&west, &site(&town, WEST, 1));
    town.wait_served(WEST, 1);

    // Taken away, and brought back, while the router runs.
    fs::remove_file(directory.join("west")).unwrap();
    town.wait_refused(WEST);
    town.wait_served(EAST, 0);
    assert!(
        !Path::new(&town.cache_dir())
            .join("cluster-west.cache")
            .exists()
    );
    add(&directory, "west", &west);
    town.wait_served(WEST, 1);
}

/// It never answered, and nothing is known of it: the others wait for it, but not for ever.
#[test]
fn cluster_that_does_not_answer_does_not_hold_up_the_others() {
    let town = Town::new(1);
    let _server = town.serve(0, EAST);
    fill(&town.control, &site(&town, EAST, 0));
    let text = fs::read_to_string(town.control.kubeconfig()).unwrap();
    let nowhere = text.replace(&town.control.url(), "https://127.0.0.1:1");
    assert_ne!(text, nowhere);
    let path = town.lab.dir().join("nowhere");
    fs::write(&path, nowhere).unwrap();
    let east = format!("east={}", town.control.kubeconfig().display());
    let nowhere = format!("nowhere={}", path.display());
    let router = town.start(&["--cluster", &east, "--cluster", &nowhere]);
    town.wait_served(EAST, 0);
    assert!(stale(&router, "nowhere") && !stale(&router, "east"));
}

#[test]
fn cluster_that_is_stale_for_too_long_is_dropped_where_that_is_asked_for() {
    let mut town = Town::new(2);
    let mut west = ControlPlane::start_in(&town.lab.net.router);
    west.apply(&crd());
    let _servers = [town.serve(0, EAST), town.serve(1, WEST)];
    fill(&town.control, &site(&town, EAST, 0));
    fill(&west, &site(&town, WEST, 1));
    let named =
        |name: &str, control: &ControlPlane| format!("{name}={}", control.kubeconfig().display());
    let (east, west_named) = (named("east", &town.control), named("west", &west));
    let _router = town.start(&[
        "--cluster",
        &east,
        "--cluster",
        &west_named,
        "--cluster-stale-after",
        "3s",
    ]);
    town.wait_served(WEST, 1);
    west.kill();
    until("west is dropped", SLOW, || town.ask(WEST).is_err());
    town.wait_served(EAST, 0);
    west.restart();
    until("west is back", SLOW, || town.ask(WEST).is_ok());

    // The last one is no exception.
    west.kill();
    town.control.kill();
    until("nothing is left", SLOW, || {
        town.ask(EAST).is_err() && town.ask(WEST).is_err()
    });
}

fn site(town: &Town, host: &str, backend: u8) -> Site {
    Site::new()
        .route(host, "one")
        .service("one", [town.lab.endpoint(backend)])
}

#[track_caller]
pub fn fill(control: &ControlPlane, site: &Site) {
    control.send(&ingress_class(), DryRun::No).unwrap();
    for mut object in site.objects() {
        if object["kind"] == "Listener" {
            object["spec"]["multicluster"] = json!(true);
        }
        control.send(&object, DryRun::No).unwrap();
    }
}

fn delete(control: &ControlPlane, path: &str) {
    let client = control.client();
    let request = http::Request::delete(path).body(Vec::new()).unwrap();
    let answer = control.run(async move { client.request::<serde_json::Value>(request).await });
    answer.unwrap();
}

fn add(directory: &Path, name: &str, control: &ControlPlane) {
    fs::copy(control.kubeconfig(), directory.join(name)).unwrap();
}

pub fn stale(router: &Router, cluster: &str) -> bool {
    router.metric("sni_router_source_stale", &[("cluster", cluster)]) > 0.5
}

fn routes(router: &Router) -> u64 {
    let status = router.status();
    let listeners = status["listeners"].as_array().cloned().unwrap_or_default();
    listeners
        .iter()
        .filter_map(|it| it["routes"].as_u64())
        .sum()
}
