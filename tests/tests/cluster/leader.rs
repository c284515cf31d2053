//! Several routers of one cluster: one of them writes.

use serde_json::Value;
use sni_router_tests::daemon::Router;
use sni_router_tests::site::Site;
use sni_router_tests::wait::{SOON, until};

use crate::status::{INGRESS, LISTENER, SLOW, get};
use crate::town::{Town, ingress_class};

#[test]
fn another_router_writes_status_when_the_one_that_did_is_killed_and_at_once_when_it_ends() {
    let town = Town::new(1);
    town.put(&ingress_class());
    let endpoint = town.lab.endpoint(0);
    let site = |host: &str| Site::new().route(host, "one").service("one", [endpoint]);
    town.store(&site("one.example.com"));
    let mut first = town.start(&[]);
    until("the first one leads", SLOW, || leads(&first));
    let mut second = town.start(&["--workers", "1"]);
    assert!(leads(&first) && !leads(&second));
    let holder = || get(&town.control, LEASE)["spec"]["holderIdentity"].clone();
    let old = holder();

    first.kill();
    until("the second one leads", SLOW, || leads(&second));
    assert_ne!(holder(), old);
    assert_eq!(get(&town.control, LEASE)["spec"]["leaseTransitions"], 1);
    let mut listener = site("one.example.com").objects().remove(0);
    listener["spec"]["passthrough"] = false.into();
    town.put(&listener);
    until("it writes", SLOW, || {
        state(&get(&town.control, LISTENER)) == "Refused"
            && get(&town.control, INGRESS)["status"]["loadBalancer"]["ingress"].is_null()
    });

    let third = town.start(&[]);
    assert!(!leads(&third));
    second.terminate(SOON);
    // Sooner than it would expire.
    until("the third one leads", SOON, || leads(&third));
}

fn leads(router: &Router) -> bool {
    router.metric("sni_router_leader", &[]) > 0.5
}

fn state(listener: &Value) -> &str {
    listener["status"]["state"].as_str().unwrap_or_default()
}

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases/sni-router";
