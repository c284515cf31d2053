//! Watches that are cut, or fall silent, while the API server is well.

use std::time::Duration;

use sni_router_tests::daemon::Router;
use sni_router_tests::server::Server;
use sni_router_tests::site::Site;
use sni_router_tests::wait::until;

use crate::gate::Gate;
use crate::outage::is_stale;
use crate::status::SLOW;
use crate::town::{Town, ingress_class};

const HOST: &str = "one.example.com";

/// Every watch goes on where it was: a change is not missed that happens while all are cut.
#[test]
fn no_change_is_missed_when_watches_are_cut_again_and_again() {
    let (town, _servers, gate, router) = behind_a_gate();
    for round in 1..=6 {
        assert!(gate.cut() > 0, "nothing came by");
        let backend = round % 2;
        town.store(&site(&town, backend));
        town.wait_served(HOST, backend);
    }
    until("the router is up to date", SLOW, || !is_stale(&router));
}

/// No packet and no error: only time tells.
#[test]
fn watch_that_fell_silent_is_noticed_and_what_it_missed_is_caught_up() {
    let (town, _servers, gate, router) = behind_a_gate();
    gate.block(true);
    town.store(&site(&town, 1));
    until("the router says that it is stale", LONG, || {
        is_stale(&router)
    });
    town.wait_served(HOST, 0);
    gate.block(false);
    town.wait_served(HOST, 1);
    until("the router is up to date", LONG, || !is_stale(&router));
}

/// A router whose watches come through a gate, and which serves the first of two backends; what it
/// needs stands before it, so that it goes first.
#[track_caller]
fn behind_a_gate() -> (Town, [Server; 2], Gate, Router) {
    let town = Town::new(2);
    let servers = [town.serve(0, HOST), town.serve(1, HOST)];
    town.put(&ingress_class());
    town.store(&site(&town, 0));
    let gate = Gate::open(&town);
    let kubeconfig = gate.kubeconfig(&town).display().to_string();
    let router = town.start(&["--kubeconfig", &kubeconfig]);
    town.wait_served(HOST, 0);
    (town, servers, gate, router)
}

fn site(town: &Town, backend: u8) -> Site {
    Site::new()
        .route(HOST, "one")
        .service("one", [town.lab.endpoint(backend)])
}

/// A silent watch is given up after more than a minute.
const LONG: Duration = Duration::from_secs(180);
