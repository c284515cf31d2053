//! API servers that go away, come back, and forget.

use serde_json::json;
use sni_router_tests::daemon::Router;
use sni_router_tests::site::Site;
use sni_router_tests::wait::{SOON, until};

use crate::status::SLOW;
use crate::town::{Town, ingress_class};

const HOST: &str = "one.example.com";

#[test]
fn traffic_goes_on_and_changes_are_caught_up_when_the_api_server_was_away() {
    let mut town = Town::new(2);
    let _servers = [town.serve(0, HOST), town.serve(1, HOST)];
    town.put(&ingress_class());
    town.store(&site(&town, 0));
    let router = town.start(&[]);
    town.wait_served(HOST, 0);
    assert!(!is_stale(&router));

    town.control.kill();
    until("the router says that it is stale", SLOW, || {
        is_stale(&router)
    });
    town.wait_served(HOST, 0);
    assert_eq!(router.get("/readyz").status, 200);

    town.control.restart();
    until("the router is up to date", SLOW, || !is_stale(&router));
    let generation = router.generation();
    town.store(&site(&town, 1));
    town.wait_served(HOST, 1);
    assert!(router.generation() > generation);
    assert!(router.metric("sni_router_source_watch_errors_total", &[]) > 0.5);
}

/// With the history gone, a watch cannot go on where it was (410 Gone): everything is listed again,
/// and what was deleted meanwhile is found to be.
#[test]
fn routes_stay_while_everything_is_listed_again_when_history_is_gone() {
    let mut town = Town::new(2);
    let _servers = [town.serve(0, HOST), town.serve(1, HOST)];
    let endpoints = [town.lab.endpoint(0), town.lab.endpoint(1)];
    town.put(&ingress_class());
    let both = |backend: usize| {
        Site::new()
            .route(HOST, "one")
            .service("one", [endpoints[backend]])
            .route("two.example.com", "two")
            .service("two", [endpoints[1]])
    };
    town.store(&both(0));
    let router = town.start(&[]);
    town.wait_served(HOST, 0);
    let problems = router.metric("sni_router_config_problems", &[("severity", "error")]);

    town.control.kill();
    until("the router says that it is stale", SLOW, || {
        is_stale(&router)
    });
    // Another one, with the same etcd and no memory of its own.
    town.control.restart_with(&["--watch-cache=false"]);
    town.store(&both(1));
    town.delete("/api/v1/namespaces/default/services/two");
    town.control.compact();
    town.control.restart_with(&["--watch-cache=false"]);
    town.wait_served(HOST, 1);
    until("the router is up to date", SLOW, || !is_stale(&router));
    until("the deleted Service is missed", SLOW, || {
        router.metric("sni_router_config_problems", &[("severity", "error")]) > problems
    });
}

#[test]
fn router_serves_what_it_knew_when_it_starts_without_an_api_server() {
    let mut town = Town::new(2);
    let _servers = [town.serve(0, HOST), town.serve(1, HOST)];
    town.put(&ingress_class());
    town.store(&site(&town, 0));
    let mut router = town.start(&[]);
    town.wait_served(HOST, 0);
    router.terminate(SOON);
    town.control.kill();

    let router = town.start(&[]);
    town.wait_served(HOST, 0);
    assert!(is_stale(&router), "{}", router.status()["clusters"]);
    town.control.restart();
    until("the router is up to date", SLOW, || !is_stale(&router));
    town.store(&site(&town, 1));
    town.wait_served(HOST, 1);
    drop(router);

    // What it kept is not what it wrote: it says so, and waits for the API server.
    let cache = std::path::Path::new(&town.cache_dir()).join("cluster.cache");
    let mut bytes = std::fs::read(&cache).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&cache, bytes).unwrap();
    town.control.kill();
    let router = town.launch(&[]);
    router
        .log()
        .wait_for_line("is damaged, and is ignored", SLOW);
    router.log().wait_for_line("the admin API is at", SLOW);
    assert_eq!(router.get("/readyz").status, 503);
    town.control.restart();
    town.wait_served(HOST, 1);
}

/// In no file the router wrote, and in none of its lines, also not the most talkative ones.
#[test]
fn private_keys_are_nowhere() {
    let town = Town::new(1);
    let _server = town.serve(0, HOST);
    town.put(&ingress_class());
    town.store(&site(&town, 0));
    // Nobody names it.
    town.put(&json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "other", "namespace": "default"},
        "stringData": {"tls.crt": "certificate", "tls.key": KEY},
    }));
    let mut router = town.start(&["--log-level", "trace"]);
    town.wait_served(HOST, 0);
    let front = sni_router_tests::tls::pki::front();
    let lines: Vec<_> = front
        .key_pem
        .lines()
        .filter(|line| line.len() > 40)
        .collect();
    assert!(!lines.is_empty());
    let memory = router.metric("sni_router_source_objects", &[("kind", "Secret")]);
    assert!(
        (memory - 1.0).abs() < 0.1,
        "only the one that is named is kept: {memory}"
    );
    router.terminate(SOON);
    let mut texts = vec![router.log().text()];
    for entry in std::fs::read_dir(town.cache_dir()).unwrap() {
        texts.push(std::fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    assert!(texts.len() > 1 && texts[1].contains("tls.crt"));
    for text in texts {
        for secret in lines.iter().copied().chain([KEY, "tls.key\\\""]) {
            assert!(!text.contains(secret), "{secret}");
            let encoded = base64(secret);
            assert!(!text.contains(&encoded), "{secret} as base64");
        }
    }
}

fn site(town: &Town, backend: u8) -> Site {
    Site::new()
        .route(HOST, "one")
        .service("one", [town.lab.endpoint(backend)])
}

pub fn is_stale(router: &Router) -> bool {
    router.metric("sni_router_source_stale", &[]) > 0.5
}

/// Without what depends on where it stands.
fn base64(text: &str) -> String {
    use base64::Engine as _;
    let whole = text.len() / 3 * 3;
    base64::engine::general_purpose::STANDARD.encode(&text[..whole])
}

const KEY: &str = "a key that nobody may ever see";
