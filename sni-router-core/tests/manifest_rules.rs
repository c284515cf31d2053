//! Who attaches, and who wins.

mod manifest_support;

use manifest_support::*;
use sni_router_core::manifest::Resolved;
use sni_router_core::model::Method;

const NONE: [&str; 0] = [];

#[test]
fn ingress_attaches_from_another_namespace_when_it_names_it() {
    let text = listener("web", 443)
        + &ingress("app", "a.test", "app")
            .replace(
                "name: app\n  annotations",
                "name: app\n  namespace: team\n  annotations",
            )
            .replace("listener: web", "listener: default/web");
    let build = build(&text);
    assert_eq!(
        build.model.listeners[0].routes[0].backend.key.to_string(),
        "team/app:443"
    );
}

#[test]
fn older_ingress_has_the_host_whatever_the_order() {
    let old = created(&ingress("zzz", "a.test", "old"), "2020-01-01T00:00:00Z");
    let young = created(&ingress("aaa", "A.test.", "young"), "2021-01-01T00:00:00Z");
    let unknown = ingress("unknown", "a.test", "unknown");
    for order in [[&old, &young, &unknown], [&unknown, &young, &old]] {
        let text = listener("web", 443) + order[0] + order[1] + order[2];
        let build = build(&text);
        assert_eq!(routes(&build), ["web a.test old:443 []"]);
        let told = errors(&build);
        let told: Vec<_> = told
            .iter()
            .filter(|told| told.contains("belongs to Ingress"))
            .collect();
        assert_eq!(told.len(), 2, "{:?}", build.problems);
        assert_eq!(build.shadowed.len(), 2);
    }
}

#[test]
fn older_listener_has_the_address_and_port() {
    let old = created(&listener("zzz", 443), "2020-01-01T00:00:00Z");
    let young = created(&listener("aaa", 443), "2021-01-01T00:00:00Z");
    let build = build(&(young + &old + &listener("other-port", 8443)));
    assert_eq!(
        listeners(&build),
        ["other-port 192.0.2.1:8443", "zzz 192.0.2.1:443"]
    );
    assert_eq!(errors(&build).len(), 1);
}

#[test]
fn youngest_listeners_are_refused_when_there_are_too_many_addresses() {
    let addresses: Vec<_> = (100..164).map(|n| format!("192.0.2.{n}")).collect();
    let secondary = format!("spec:\n  secondaryVips: [{}]\n", addresses.join(", "));
    let with_65 =
        |n: u16| listener(&format!("web-{n:03}"), 1_000 + n).replacen("spec:\n", &secondary, 1);
    // Of 8,192 addresses 126 Listeners take 8,190.
    let text: String = (0..128).map(with_65).collect();
    let build = build(&(text + &listener("younger", 443)));
    let served = listeners(&build);
    assert_eq!(served.len(), 127);
    assert!(served[125].starts_with("web-125 "), "{}", served[125]);
    assert_eq!(served[126], "younger 192.0.2.1:443");
    assert_eq!(errors(&build).len(), 2, "{:?}", errors(&build));
}

#[test]
fn every_address_and_one_address_are_no_conflict() {
    let any = |name: &str| listener(name, 443).replace("  vip: 192.0.2.1\n", "");
    let build = build(&(any("any") + &listener("web", 443) + &any("too-many")));
    assert_eq!(listeners(&build), ["any *:443", "web 192.0.2.1:443"]);
    assert_eq!(errors(&build).len(), 1);
}

#[test]
fn port_is_443_and_addresses_are_every_one_when_absent() {
    let text = listener("web", 443).replace("  vip: 192.0.2.1\n  port: 443\n", "");
    assert_eq!(listeners(&build(&text)), ["web *:443"]);
}

#[test]
fn rule_without_host_comes_before_default_backend_and_default_action() {
    let rule = ingress("rule", "", "rule");
    let default = "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  \
        name: aaa-default\n  annotations:\n    ingress.citrix.com/listener: web\nspec:\n  \
        defaultBackend:\n    service: {name: fallback, port: {number: 443}}\n";
    let action = "  defaultAction:\n    backend:\n      kube: {service: action, port: 443}\n";
    let web = listener("web", 443) + action;
    for (text, winner) in [
        (format!("{web}{default}{rule}"), "web * rule:443 []"),
        (format!("{web}{default}"), "web * fallback:443 []"),
        (web.clone(), "web * action:443 []"),
    ] {
        assert_eq!(routes(&build(&text)), [winner]);
    }
}

#[test]
fn host_without_paths_goes_to_the_default_backend() {
    let text = listener("web", 443)
        + "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: a\n  \
           annotations:\n    ingress.citrix.com/listener: web\nspec:\n  defaultBackend:\n    \
           service: {name: all, port: {name: tls}}\n  rules:\n  - host: '*.a.test'\n";
    assert_eq!(
        routes(&build(&text)),
        ["web *.a.test all:tls []", "web * all:tls []"]
    );
}

#[test]
fn wildcard_longer_wildcard_and_exact_are_routes_of_their_own() {
    let text = listener("web", 443)
        + &ingress("a", "*.test", "a")
        + &ingress("b", "*.a.test", "b")
        + &ingress("c", "x.a.test", "c");
    let expected = [
        "web x.a.test c:443 []",
        "web *.a.test b:443 []",
        "web *.test a:443 []",
    ];
    assert_eq!(routes(&build(&text)), expected);
}

#[test]
fn class_decides_only_when_classes_are_given() {
    let classed = |class: &str| {
        let spec = format!("spec:\n  ingressClassName: {class}\n  rules");
        listener("web", 443) + &ingress("app", "a.test", "app").replace("spec:\n  rules", &spec)
    };
    let legacy = |class: &str| {
        let line = format!("    kubernetes.io/ingress.class: {class}\nspec:");
        classed("mine").replacen(
            "spec:\n  ingressClassName",
            &format!("{line}\n  ingressClassName"),
            1,
        )
    };
    let class = |controller: &str, default: bool| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata:\n  name: mine\n  \
             annotations:\n    ingressclass.kubernetes.io/is-default-class: \"{default}\"\n\
             spec:\n  controller: {controller}\n"
        )
    };
    let plain = listener("web", 443) + &ingress("app", "a.test", "app");
    let ours = class("citrix.com/ingress-controller", true);
    for (classes, text, served) in [
        (vec![], classed("other"), true),
        (vec!["mine"], classed("Mine"), true),
        (vec!["mine"], classed("other"), false),
        (vec!["mine"], legacy("other"), false),
        (vec!["other"], legacy("other"), true),
        (vec!["mine"], plain.clone(), false),
        (vec!["mine"], plain.clone() + &ours, true),
        (vec!["mine"], classed("mine") + &ours, true),
        (
            vec!["mine"],
            classed("mine") + &class("example.com/other", false),
            false,
        ),
    ] {
        let build = build_for(&classes, &text);
        assert_eq!(
            routes(&build).len(),
            usize::from(served),
            "{classes:?}\n{text}"
        );
        assert_eq!(
            errors(&build)
                .iter()
                .filter(|e| !e.contains("no Service"))
                .count(),
            0
        );
    }
    let foreign = listener("web", 443) + "  ingressclass: other\n";
    assert_eq!(listeners(&build_for(&["mine"], &foreign)), NONE);
    assert_eq!(listeners(&build(&foreign)).len(), 1);
}

#[test]
fn method_is_the_annotations() {
    let annotate = |json: &str| {
        let line = format!("listener: web\n    ingress.citrix.com/lbvserver: '{json}'");
        listener("web", 443) + &ingress("app", "a.test", "app").replace("listener: web", &line)
    };
    for (json, method) in [
        (r#"{"app":{"lbmethod":"ROUNDROBIN"}}"#, Method::RoundRobin),
        (
            r#"{"app":{"persistenceType":"SOURCEIP","timeout":"10"}}"#,
            Method::SourceIpHash,
        ),
        (
            r#"{"app":{"lbmethod":"SOURCEIPHASH"}}"#,
            Method::SourceIpHash,
        ),
        ("{}", Method::LeastConnection),
    ] {
        let build = build(&annotate(json));
        assert_eq!(
            build.model.listeners[0].routes[0].backend.key.method, method,
            "{json}"
        );
    }
}

#[test]
fn null_is_the_same_as_absent() {
    let text = listener("web", 443).replace("  vip: 192.0.2.1\n", "  vip: null\n  routes:\n")
        + &ingress("app", "a.test", "app").replace("annotations:\n", "annotations:\n    a/b:\n")
        + &service("app", "198.51.100.1")
            .replace("endpoints:\n- addresses: [198.51.100.1]", "endpoints: null");
    let build = build(&text);
    assert_eq!(routes(&build), ["web a.test app:443 []"]);
    assert_eq!(errors(&build), NONE);
    assert_eq!(
        warnings(&build).len(),
        1,
        "no ready endpoint: {:?}",
        build.problems
    );
}

#[test]
fn list_of_objects_is_read_as_kubectl_prints_it() {
    let json = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "citrix.com/v1", "kind": "ListenerList", "items": [
          {"metadata": {"name": "web", "managedFields": [{"fieldsV1": {"f:spec": {}}}]},
           "spec": {"protocol": "https", "passthrough": true},
           "status": {"state": 7}}]}]}"#;
    let build = compiler().build(&snapshot(&[("a.json", json)]), &Resolved::new(), 0);
    assert_eq!(listeners(&build), ["web *:443"]);
    assert_eq!(errors(&build), NONE);
}
