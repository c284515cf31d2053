//! Who may attach: classes, allowed namespaces, and the default listener.

mod manifest_support;

use manifest_support::*;
use sni_router_core::manifest::{
    Build, CertificateCheck, Compiler, Controllers, Options, Resolved,
};
use sni_router_core::problem::Reason;

const OURS: &str = "sni-router.io/ingress-controller";
const CITRIX: &str = "citrix.com/ingress-controller";

fn build_as(options: Options, text: &str) -> Build {
    let mut compiler = Compiler::new(Options {
        certificates: CertificateCheck::Ignore,
        ..options
    });
    compiler.build(&snapshot(&[("a.yaml", text)]), &Resolved::new(), 0)
}

fn class(name: &str, controller: &str, default: bool) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata:\n  name: {name}\n  \
         annotations:\n    ingressclass.kubernetes.io/is-default-class: \"{default}\"\nspec:\n  \
         controller: {controller}\n"
    )
}

/// An Ingress of a class, by field or by annotation.
fn of_class(field: Option<&str>, annotation: Option<&str>) -> String {
    let mut text = ingress("app", "a.test", "app");
    if let Some(class) = field {
        text = text.replacen(
            "spec:\n",
            &format!("spec:\n  ingressClassName: {class}\n"),
            1,
        );
    }
    match annotation {
        Some(class) => annotated(&text, "kubernetes.io/ingress.class", class),
        None => text,
    }
}

#[test]
fn class_decides_as_netscalers_rules_say() {
    let classes = class("own", OURS, false)
        + &class("theirs", CITRIX, false)
        + &class("nginx", "k8s.io/ingress-nginx", true);
    let default = class("own", OURS, true) + &class("theirs", CITRIX, false);
    use Controllers::{ByName, Own, OwnAndCitrix};
    for (controllers, given, classes, field, annotation, taken) in [
        // No classes are given: what has none, and what is of the controller.
        (Own, &[][..], &classes, None, None, true),
        (Own, &[], &classes, Some("own"), None, true),
        (Own, &[], &classes, Some("OWN"), None, true),
        (Own, &[], &classes, Some("theirs"), None, false),
        (OwnAndCitrix, &[], &classes, Some("theirs"), None, true),
        (Own, &[], &classes, Some("nginx"), None, false),
        (OwnAndCitrix, &[], &classes, Some("nginx"), None, false),
        (Own, &[], &classes, Some("unknown"), None, false),
        (Own, &[], &classes, None, Some("nginx"), false),
        (Own, &[], &classes, None, Some("own"), true),
        (ByName, &[], &classes, Some("nginx"), None, true),
        // Classes are given: the annotation, else the field, else the default.
        (Own, &["own"], &classes, Some("own"), None, true),
        (Own, &["own"], &classes, None, None, false),
        (Own, &["own"], &default, None, None, true),
        (Own, &["theirs"], &classes, Some("theirs"), None, false),
        (
            OwnAndCitrix,
            &["theirs"],
            &classes,
            Some("theirs"),
            None,
            true,
        ),
        (
            OwnAndCitrix,
            &["own"],
            &classes,
            Some("theirs"),
            None,
            false,
        ),
        (Own, &["own"], &classes, Some("nginx"), Some("own"), true),
        (Own, &["own"], &classes, Some("own"), Some("nginx"), false),
        (Own, &["unknown"], &classes, Some("unknown"), None, false),
        (ByName, &["unknown"], &classes, Some("unknown"), None, true),
        (ByName, &["nginx"], &classes, Some("nginx"), None, false),
    ] {
        let options = Options {
            ingress_classes: given.iter().map(|class| (*class).into()).collect(),
            controllers,
            ..Options::default()
        };
        let text = listener("web", 443) + &of_class(field, annotation) + classes;
        let build = build_as(options, &text);
        assert_eq!(
            routes(&build).len(),
            usize::from(taken),
            "{controllers:?} {given:?} {field:?} {annotation:?}: {:?}",
            build.problems
        );
    }
}

#[test]
fn listener_of_another_controllers_class_is_left_alone() {
    let classes = class("own", OURS, false) + &class("theirs", CITRIX, false);
    for (controllers, name, taken) in [
        (Controllers::Own, "own", true),
        (Controllers::Own, "theirs", false),
        (Controllers::Own, "unknown", false),
        (Controllers::OwnAndCitrix, "theirs", true),
        (Controllers::ByName, "unknown", true),
    ] {
        let options = Options {
            controllers,
            ..Options::default()
        };
        let text = listener("web", 443) + &format!("  ingressclass: {name}\n") + &classes;
        let build = build_as(options, &text);
        assert_eq!(
            listeners(&build).len(),
            usize::from(taken),
            "{controllers:?} {name}"
        );
        assert_eq!(
            build.listeners.len(),
            usize::from(taken),
            "{controllers:?} {name}"
        );
    }
}

#[test]
fn class_of_another_cluster_says_nothing() {
    let mut compiler = Compiler::new(Options {
        certificates: CertificateCheck::Ignore,
        controllers: Controllers::Own,
        ..Options::default()
    });
    let cluster = |host: &str| {
        shared()
            + &ingress("app", host, "app").replacen(
                "spec:\n",
                "spec:\n  ingressClassName: own\n",
                1,
            )
    };
    let snapshot = clusters(&[
        ("east", cluster("a.test") + &class("own", OURS, false)),
        (
            "west",
            cluster("b.test") + &class("own", "k8s.io/ingress-nginx", false),
        ),
    ]);
    let build = compiler.build(&snapshot, &Resolved::new(), 0);
    assert_eq!(
        shares(&build),
        ["default/web a.test | east/default/app:443 0 - []"]
    );
}

fn in_namespace(namespace: &str, host: &str) -> String {
    ingress("app", host, "app")
        .replace("listener: web", "listener: default/web")
        .replacen(
            "name: app\n",
            &format!("name: app\n  namespace: {namespace}\n"),
            1,
        )
}

fn namespace(name: &str, labels: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {{{labels}}}\n"
    )
}

#[test]
fn only_allowed_namespaces_attach_when_the_listener_names_some() {
    let ingresses = in_namespace("shop", "shop.test")
        + &in_namespace("billing", "billing.test")
        + &in_namespace("shop-v2", "v2.test")
        + &namespace("billing", "team: edge")
        + &namespace("shop-v2", "team: other");
    let names = "sni-router.io/allowed-namespaces";
    let selector = "sni-router.io/allowed-namespace-selector";
    for (annotations, expected) in [
        (vec![], &["billing.test", "shop.test", "v2.test"][..]),
        (vec![(names, "shop")], &["shop.test"]),
        (
            vec![(names, "*")],
            &["billing.test", "shop.test", "v2.test"],
        ),
        (vec![(selector, "team=edge")], &["billing.test"]),
        (vec![(selector, "team")], &["billing.test", "v2.test"]),
        (vec![(names, "default")], &[]),
        (
            vec![(names, "shop"), (selector, "team=other")],
            &["shop.test", "v2.test"],
        ),
    ] {
        let listener = annotations.iter().enumerate().fold(
            listener("web", 443),
            |text, (index, (key, value))| match index {
                0 => with_annotation(&text, key, value),
                _ => annotated(&text, key, value),
            },
        );
        let build = build(&(listener + &ingresses));
        let served: Vec<_> = build.model.listeners[0]
            .routes
            .iter()
            .map(|route| route.pattern.to_string())
            .collect();
        assert_eq!(served, expected, "{annotations:?}");
        let refused = build
            .problems
            .iter()
            .filter(|problem| problem.reason == Reason::NotAllowedByListener)
            .count();
        assert_eq!(refused, 3 - expected.len(), "{annotations:?}");
    }
}

#[test]
fn namespace_without_labels_is_taken_by_what_asks_for_absence() {
    let selector = "sni-router.io/allowed-namespace-selector";
    let bare = "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n";
    for (requirement, object, taken) in [
        ("!frozen", bare, true),
        ("stage!=test", bare, true),
        ("team", bare, false),
        ("!frozen", "", false),
    ] {
        let web = with_annotation(&listener("web", 443), selector, requirement);
        let build = build(&(web + &in_namespace("shop", "shop.test") + object));
        assert_eq!(
            routes(&build).len(),
            usize::from(taken),
            "{requirement} {object:?}"
        );
    }
}

#[test]
fn listener_of_several_clusters_takes_whom_all_of_them_take() {
    let names = "sni-router.io/allowed-namespaces";
    let selector = "sni-router.io/allowed-namespace-selector";
    let west = in_namespace("shop", "shop.test")
        + &in_namespace("billing", "billing.test")
        + &namespace("billing", "team: edge");
    for (east, own, taken) in [
        (None, None, &["billing.test", "shop.test"][..]),
        (Some((names, "shop")), None, &["shop.test"]),
        (Some((names, "shop")), Some((names, "billing")), &[]),
        (
            Some((names, "*")),
            Some((names, "billing")),
            &["billing.test"],
        ),
        (Some((selector, "team=edge")), None, &["billing.test"]),
    ] {
        let with = |annotation: Option<(&str, &str)>| match annotation {
            Some((key, value)) => with_annotation(&shared(), key, value),
            None => shared(),
        };
        let build = build_clusters(&[("east", with(east)), ("west", with(own) + &west)]);
        let routes = build.model.listeners[0].routes.iter();
        let hosts: Vec<_> = routes.map(|route| route.pattern.to_string()).collect();
        assert_eq!(hosts, taken, "{east:?} {own:?}");
        let told = errors(&build);
        let by_east = told
            .iter()
            .filter(|told| told.contains("the Listener east/"));
        let is_closed = east.is_some_and(|(_, value)| value != "*");
        assert_eq!(by_east.count() > 0, is_closed, "{told:?}");
    }
}

#[test]
fn listener_that_was_meant_is_looked_for_in_the_own_cluster() {
    let elsewhere =
        listener("web", 443).replacen("name: web\n", "name: web\n  namespace: edge\n", 1);
    let app = ingress("app", "a.test", "app");
    let build = build_clusters(&[("east", elsewhere.clone() + &app), ("west", app.clone())]);
    let told = errors(&build);
    let of = |cluster: &str| {
        let start = format!("error: Ingress {cluster}/default/app: metadata");
        told.iter().find(|told| told.starts_with(&start)).unwrap()
    };
    assert!(
        of("east").ends_with("(did you mean east/edge/web)"),
        "{told:?}"
    );
    assert!(
        of("west").ends_with("(write name, or namespace/name)"),
        "{told:?}"
    );
}

#[test]
fn listener_is_not_opened_by_an_annotation_that_is_misspelled() {
    for (key, value) in [
        ("sni-router.io/allowed-namespace", "shop"),
        ("sni-router.io/allow-namespaces", "shop"),
        ("sni-router.io/allowed-namespaces", "shop billing"),
        ("sni-router.io/allowed-namespace-selector", "team in (a)"),
    ] {
        let text =
            with_annotation(&listener("web", 443), key, value) + &in_namespace("shop", "shop.test");
        let build = build(&text);
        assert_eq!(listeners(&build), Vec::<String>::new(), "{key}: {value}");
    }
    let harmless = with_annotation(
        &listener("web", 443),
        "sni-router.io/cluster-polcy",
        "spread",
    );
    let build = build(&harmless);
    assert_eq!(listeners(&build).len(), 1);
    assert!(
        warnings(&build)
            .iter()
            .any(|warning| warning.contains("did you mean sni-router.io/cluster-policy")),
        "{:?}",
        build.problems
    );
}

#[test]
fn ingress_that_asks_for_passthrough_attaches_to_the_default_listener() {
    let bare = |key: &str, value: &str| {
        ingress("app", "a.test", "app").replace(
            "ingress.citrix.com/listener: web",
            &format!("{key}: \"{value}\""),
        )
    };
    let nginx = "nginx.ingress.kubernetes.io/ssl-passthrough";
    let citrix = "ingress.citrix.com/ssl-passthrough";
    for (default, key, value, attached) in [
        (true, nginx, "true", true),
        (true, citrix, "True", true),
        (true, nginx, "false", false),
        (true, "other", "true", false),
        (false, nginx, "true", false),
    ] {
        let options = Options {
            default_listener: default.then(|| "default/web".parse().unwrap()),
            ..Options::default()
        };
        let build = build_as(options, &(listener("web", 443) + &bare(key, value)));
        assert_eq!(
            routes(&build).len(),
            usize::from(attached),
            "{default} {key} {value}"
        );
        assert_eq!(
            build.ingresses.len(),
            usize::from(attached),
            "{default} {key} {value}"
        );
    }
}

#[test]
fn default_listener_that_is_not_there_is_the_flags_fault() {
    let options = Options {
        default_listener: Some("edge/front".parse().unwrap()),
        ..Options::default()
    };
    let bare = ingress("app", "a.test", "app").replace(
        "ingress.citrix.com/listener: web",
        "nginx.ingress.kubernetes.io/ssl-passthrough: \"true\"",
    );
    let build = build_as(options, &(listener("web", 443) + &bare));
    let told: Vec<_> = build.problems.iter().map(ToString::to_string).collect();
    assert!(
        told.iter().any(|problem| problem.contains(
            "metadata.annotations: there is no Listener edge/front, which --default-listener names"
        )),
        "{told:?}"
    );
}
