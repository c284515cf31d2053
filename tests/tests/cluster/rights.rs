//! What the router's ServiceAccount may do, asked of the API server.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;
use serde_json::Value;
use sni_router_tests::cluster::ControlPlane;
use sni_router_tests::cluster::render::{helm, kustomize};
use sni_router_tests::site::Site;
use sni_router_tests::wait::until;

use crate::status::{INGRESS, LISTENER, SLOW};
use crate::town::{Town, ingress_class};

#[test]
fn service_account_may_do_what_the_router_needs_and_no_more() {
    let control = ControlPlane::start();
    control.apply(NAMESPACES);
    apply_rights(&control, &kustomize("kubernetes"));
    for right in &NEEDED {
        // The API server's authorizer hears of them a moment later than whoever has stored them.
        until(&format!("{right:?} is allowed"), SLOW, || {
            is_allowed(&control, right)
        });
    }
    for right in &NEVER {
        assert!(!is_allowed(&control, right), "{right:?}");
    }
}

/// It runs as the installed ServiceAccount, does all that it does, and is refused nothing.
#[test]
fn router_gets_by_with_the_rights_that_are_installed() {
    let town = Town::new(1);
    let _server = town.serve(0, HOST);
    town.control.apply(NAMESPACES);
    apply_rights(&town.control, &kustomize("kubernetes"));
    let account = town.control.service_account_kubeconfig(ACCOUNT, ACCOUNT);
    town.put(&ingress_class());
    let site = Site::new()
        .route(HOST, "one")
        .route("two.example.com", "nobody")
        .service("one", [town.lab.endpoint(0)]);
    town.store(&site);
    let kubeconfig = account.display().to_string();
    let router = town.start(&["--kubeconfig", &kubeconfig, "--lease-namespace", ACCOUNT]);
    town.wait_served(HOST, 0);
    town.wait_for(LISTENER, "the Listener has a status", |listener| {
        listener["status"]["state"] == "Served"
    });
    town.wait_for(INGRESS, "the Ingress has the VIPs", |ingress| {
        ingress["status"]["loadBalancer"]["ingress"].is_array()
    });
    until("there is an event", SLOW, || !town.events().is_empty());
    let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{ACCOUNT}/leases/sni-router");
    let holder = &town.get(&lease)["spec"]["holderIdentity"];
    assert!(
        holder.as_str().is_some_and(|name| !name.is_empty()),
        "{holder}"
    );
    let errors = router.metric("sni_router_source_watch_errors_total", &[]);
    let failed = router.metric("sni_router_source_writes_total", &[("what", "failed")]);
    assert!(errors + failed < 0.5, "{errors}, {failed}");
    assert!(!router.log().text().contains("forbidden"));
}

#[test]
fn rights_are_narrowed_when_the_chart_is_told_so() {
    let control = ControlPlane::start();
    control.apply(NAMESPACES);
    let narrow = [
        "watchNamespaces=[\"web\"]",
        "rbacRole=true",
        "certificates=\"declared\"",
        "updateIngressStatus=false",
    ];
    apply_rights(&control, &helm(&narrow).unwrap());
    for (expected, right) in [
        (true, ("list", "networking.k8s.io", "ingresses", "web")),
        (true, ("patch", "citrix.com", "listeners/status", "web")),
        (false, ("list", "networking.k8s.io", "ingresses", "shop")),
        (false, ("list", "networking.k8s.io", "ingresses", "")),
        (
            false,
            ("patch", "networking.k8s.io", "ingresses/status", "web"),
        ),
        (false, ("get", "", "secrets", "web")),
        (true, ("list", "networking.k8s.io", "ingressclasses", "")),
    ] {
        assert_eq!(is_allowed(&control, &right), expected, "{right:?}");
    }
}

/// A verb, an API group, a resource with its subresource, and a namespace; `""` for all of them.
type Right = (&'static str, &'static str, &'static str, &'static str);

const NEEDED: [Right; 14] = [
    ("watch", "citrix.com", "listeners", ""),
    ("patch", "citrix.com", "listeners/status", ""),
    ("list", "networking.k8s.io", "ingresses", ""),
    ("patch", "networking.k8s.io", "ingresses/status", ""),
    ("watch", "networking.k8s.io", "ingressclasses", ""),
    ("list", "", "services", ""),
    ("watch", "discovery.k8s.io", "endpointslices", ""),
    ("list", "", "namespaces", ""),
    ("list", "", "secrets", ""),
    ("create", "events.k8s.io", "events", "web"),
    ("patch", "events.k8s.io", "events", "web"),
    ("create", "coordination.k8s.io", "leases", "sni-router"),
    ("update", "coordination.k8s.io", "leases", "sni-router"),
    ("get", "coordination.k8s.io", "leases", "sni-router"),
];

const NEVER: [Right; 11] = [
    ("patch", "citrix.com", "listeners", "web"),
    ("delete", "citrix.com", "listeners", "web"),
    ("update", "networking.k8s.io", "ingresses", "web"),
    ("create", "", "secrets", "web"),
    ("update", "", "services", "web"),
    ("list", "", "pods", "web"),
    ("list", "", "nodes", ""),
    ("create", "coordination.k8s.io", "leases", "web"),
    ("delete", "coordination.k8s.io", "leases", "sni-router"),
    (
        "list",
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        "",
    ),
    ("patch", "", "namespaces", "web"),
];

/// Applies accounts, roles and bindings.
#[track_caller]
fn apply_rights(control: &ControlPlane, objects: &[Value]) {
    let rights = objects.iter().filter(|object| {
        let kind = object["kind"].as_str().unwrap_or_default();
        kind == "ServiceAccount" || kind.contains("Role")
    });
    // JSON is YAML.
    let texts: Vec<_> = rights.map(Value::to_string).collect();
    assert!(texts.len() >= 5, "{texts:?}");
    control.apply(&texts.join("\n---\n"));
}

#[track_caller]
fn is_allowed(control: &ControlPlane, right: &Right) -> bool {
    let (verb, group, resource, namespace) = *right;
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some("system:serviceaccount:sni-router:sni-router".into()),
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.into()),
                group: Some(group.into()),
                resource: Some(resource.into()),
                subresource: Some(subresource.into()),
                namespace: Some(namespace.into()),
                ..Default::default()
            }),
            ..Default::default()
        },
        ..Default::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(control.client());
    let answer = control.run(async move { reviews.create(&PostParams::default(), &review).await });
    answer.unwrap().status.expect("an answer").allowed
}

const HOST: &str = "one.example.com";

/// The name of the namespace, of the account, and of most else that is installed.
const ACCOUNT: &str = "sni-router";

const NAMESPACES: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: sni-router}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: web}}
";
