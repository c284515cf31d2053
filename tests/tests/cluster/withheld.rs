//! An API server that is well and does not give everything: a right is missing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use sni_router_tests::daemon::Router;
use sni_router_tests::site::Site;
use sni_router_tests::wait::{SOON, until};

use crate::outage::is_stale;
use crate::status::{INGRESS, SLOW, addresses};
use crate::town::{Town, ingress_class};

const HOST: &str = "one.example.com";
const OTHER: &str = "two.example.com";
const LATE: &str = "late.example.com";

/// The Ingresses of one namespace are withheld: they are as the cache has them, and everything else as
/// it is.
#[test]
fn what_is_withheld_is_served_from_the_cache_and_everything_else_as_it_is() {
    let town = Town::new(3);
    let _servers = [
        town.serve(0, HOST),
        town.serve(1, OTHER),
        town.serve(2, LATE),
    ];
    let kubeconfig = furnish(&town);
    let mut router = start(&town, &kubeconfig);
    town.wait_served(HOST, 0);
    town.wait_served(OTHER, 1);
    town.wait_for(SHOP_INGRESS, "it has the VIPs", has_vips);
    router.terminate(SOON);

    withhold(&town);
    town.put(&ingress("late", "default", LATE, "late"));
    let late = Site::new().service("late", [town.lab.endpoint(2)]);
    town.store(&late.route(HOST, "one"));
    let mut router = start(&town, &kubeconfig);
    town.wait_served(OTHER, 1);
    until("what is not in the cache is served", SLOW, || {
        town.ask(LATE).is_ok()
    });
    town.wait_served(HOST, 0);
    town.wait_for(LATE_INGRESS, "status is written", has_vips);
    assert!(has_vips(&town.get(SHOP_INGRESS)));
    assert!(is_stale(&router));
    let words = "grant get, list and watch of ingresses.networking.k8s.io in the namespace shop";
    assert!(router.log().text().contains(words));
    assert!(
        is_problem(&router, words),
        "{}",
        router.get("/api/v1/problems").body
    );
    // It stays so over another start: what was kept has been kept again.
    router.terminate(SOON);
    let _router = start(&town, &kubeconfig);
    town.wait_served(OTHER, 1);
    town.wait_served(LATE, 2);
}

#[test]
fn what_is_withheld_and_was_never_known_keeps_nothing_else_from_being_served() {
    let mut town = Town::new(2);
    let _servers = [town.serve(0, HOST), town.serve(1, OTHER)];
    let kubeconfig = furnish(&town);
    withhold(&town);
    let router = start(&town, &kubeconfig);
    town.wait_served(HOST, 0);
    town.wait_refused(OTHER);
    town.wait_for(INGRESS, "status is written", has_vips);

    give(&town);
    until("what was withheld is served", SLOW, || {
        town.ask(OTHER).is_ok()
    });
    town.wait_for(SHOP_INGRESS, "its status too", has_vips);
    until("the router is up to date", SLOW, || !is_stale(&router));
    until("there is no problem left", SLOW, || {
        !is_problem(&router, "in the namespace shop")
    });

    // Withheld again, from watches that are cut: what was listed last stays.
    withhold(&town);
    town.control.restart();
    until("it is a problem again", SLOW, || {
        is_problem(&router, "in the namespace shop")
    });
    town.put(&ingress("late", "default", LATE, "one"));
    town.wait_for(LATE_INGRESS, "status is written elsewhere", has_vips);
    town.wait_served(OTHER, 1);
    assert!(has_vips(&town.get(SHOP_INGRESS)));
}

/// Their Secrets are wanted, although nobody says so but the cache.
#[test]
fn listeners_that_are_withheld_everywhere_are_served_from_the_cache_or_waited_for() {
    let town = Town::new(2);
    let _servers = [town.serve(0, HOST), town.serve(1, OTHER)];
    let kubeconfig = furnish(&town);
    let mut router = start(&town, &kubeconfig);
    town.wait_served(HOST, 0);
    router.terminate(SOON);

    let without = RIGHTS.replace("[listeners]", "[none]");
    assert_ne!(without, RIGHTS);
    town.control.apply(&without);
    let endpoints = Site::new().service("one", [town.lab.endpoint(1)]);
    town.store(&endpoints.route(HOST, "one").route(OTHER, "one"));
    let mut router = start(&town, &kubeconfig);
    until("what is not in the cache is served", SLOW, || {
        town.ask(HOST).is_err()
    });
    town.wait_served(OTHER, 1);
    router.terminate(SOON);

    std::fs::remove_dir_all(town.cache_dir()).expect("remove the cache");
    let router = launch(&town, &kubeconfig);
    until("both sections are withheld", SLOW, || {
        let text = router.log().text();
        text.matches("withheld by the API server").count() == 2
    });
    std::thread::sleep(A_WHILE);
    assert_eq!(router.get("/readyz").status, 503);
    town.control.apply(RIGHTS);
    router.wait_ready();
    town.wait_served(OTHER, 1);
}

/// A host in each of two namespaces, and an account that may read both of them. Gives its kubeconfig.
#[track_caller]
fn furnish(town: &Town) -> PathBuf {
    town.control.apply(RIGHTS);
    town.put(&ingress_class());
    let site = |host: &str, backend| {
        Site::new()
            .route(host, "one")
            .service("one", [town.lab.endpoint(backend)])
    };
    town.store(&site(HOST, 0));
    for mut object in site(OTHER, 1).objects() {
        // The Listener and its certificate are the other one's.
        if ["Service", "EndpointSlice"].contains(&object["kind"].as_str().unwrap_or_default()) {
            object["metadata"]["namespace"] = json!("shop");
            town.put(&object);
        }
    }
    town.put(&ingress("web", "shop", OTHER, "one"));
    give(town);
    town.control.service_account_kubeconfig("default", "router")
}

/// Starts a router that reads both, and waits until it is ready.
#[track_caller]
fn start(town: &Town, kubeconfig: &Path) -> Router {
    let router = launch(town, kubeconfig);
    router.wait_ready();
    router
}

/// Starts one without waiting for it.
#[track_caller]
fn launch(town: &Town, kubeconfig: &Path) -> Router {
    let kubeconfig = kubeconfig.display().to_string();
    let namespaces = ["--watch-namespace", "default", "--watch-namespace", "shop"];
    town.launch(&[&["--kubeconfig", &kubeconfig], &namespaces[..]].concat())
}

/// Lets the account read the Ingresses of `shop`.
#[track_caller]
fn give(town: &Town) {
    town.put(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "ingresses", "namespace": "shop"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "ingresses"},
        "subjects": [{"kind": "ServiceAccount", "name": "router", "namespace": "default"}],
    }));
}

/// Lets it no longer do so.
#[track_caller]
fn withhold(town: &Town) {
    town.delete("/apis/rbac.authorization.k8s.io/v1/namespaces/shop/rolebindings/ingresses");
}

fn ingress(name: &str, namespace: &str, host: &str, service: &str) -> Value {
    let backend = json!({"service": {"name": service, "port": {"name": "tls"}}});
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {"ingress.citrix.com/listener": "default/web"},
        },
        "spec": {"rules": [{
            "host": host,
            "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
        }]},
    })
}

fn has_vips(ingress: &Value) -> bool {
    !addresses(ingress).is_empty()
}

fn is_problem(router: &Router, words: &str) -> bool {
    router.get("/api/v1/problems").body.contains(words)
}

const LATE_INGRESS: &str = "/apis/networking.k8s.io/v1/namespaces/default/ingresses/late";
const SHOP_INGRESS: &str = "/apis/networking.k8s.io/v1/namespaces/shop/ingresses/web";

/// Longer than it takes from a list to being ready.
const A_WHILE: Duration = Duration::from_secs(2);

/// All but the Ingresses of `shop`.
const RIGHTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: router, namespace: default}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: ingresses}
rules:
- {apiGroups: [networking.k8s.io], resources: [ingresses], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: others}
rules:
- {apiGroups: [citrix.com], resources: [listeners], verbs: [get, list, watch]}
- {apiGroups: [''], resources: [services, secrets], verbs: [get, list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: everywhere}
rules:
- {apiGroups: [''], resources: [namespaces], verbs: [get, list, watch]}
- {apiGroups: [networking.k8s.io], resources: [ingressclasses], verbs: [get, list, watch]}
- {apiGroups: [apiextensions.k8s.io], resources: [customresourcedefinitions], verbs: [get]}
- {apiGroups: [citrix.com], resources: [listeners/status], verbs: [patch]}
- {apiGroups: [networking.k8s.io], resources: [ingresses/status], verbs: [patch]}
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: everywhere}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: everywhere}
subjects: [{kind: ServiceAccount, name: router, namespace: default}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: ingresses, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: ingresses}
subjects: [{kind: ServiceAccount, name: router, namespace: default}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: others, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: others}
subjects: [{kind: ServiceAccount, name: router, namespace: default}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: others, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: others}
subjects: [{kind: ServiceAccount, name: router, namespace: default}]
";
