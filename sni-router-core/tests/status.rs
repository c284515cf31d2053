//! What is written back to the objects.

mod manifest_support;

use std::fmt::Write as _;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use manifest_support::*;
use sni_router_core::manifest::{Build, Resolved};
use sni_router_core::problem::Severity;
use sni_router_core::status::{Desired, MAX_MESSAGE, State, desired};

/// All that is desired, as text.
fn text(desired: &Desired) -> String {
    let mut text = String::new();
    for status in &desired.listeners {
        let subject = &status.subject;
        let _ = writeln!(
            text,
            "Listener {} uid {:?} generation {:?}\n  {}: {}\n  addresses {:?}, routes {}",
            subject.key,
            subject.uid,
            subject.generation,
            status.state.as_str(),
            status.status_message,
            status.addresses,
            status.attached_routes,
        );
        for condition in &status.conditions {
            let _ = writeln!(
                text,
                "  {} {} {} {:?}",
                condition.kind.as_str(),
                condition.holds,
                condition.reason,
                condition.message
            );
        }
    }
    for status in &desired.ingresses {
        let _ = writeln!(
            text,
            "Ingress {} {:?}",
            status.subject.key, status.addresses
        );
    }
    for event in &desired.events {
        let _ = writeln!(
            text,
            "Event {} {:?} {} {:?}",
            event.object, event.uid, event.reason, event.message
        );
    }
    text
}

fn numbered(object: &str, generation: u32) -> String {
    let fields = format!("metadata:\n  uid: uid-{generation}\n  generation: {generation}\n");
    object.replacen("metadata:\n", &fields, 1)
}

fn status_of(build: &Build) -> String {
    text(&desired(build))
}

#[test]
fn listener_and_ingress_that_are_right() {
    let build = build(
        &(numbered(&listener("web", 443), 3)
            + &numbered(&ingress("app", "a.test", "app"), 4)
            + &service("app", "198.51.100.1")),
    );
    insta::assert_snapshot!(status_of(&build));
}

#[test]
fn every_way_not_to_be_served() {
    let text = numbered(&created(&listener("web", 443), "2020-01-01T00:00:00Z"), 1)
        + &numbered(&listener("young", 443), 2)
        + &listener("wrong", 8443).replace("https", "udp")
        + &listener("terminating", 9443).replace("passthrough: true", "passthrough: false")
        + &listener("ours", 9444).replace("passthrough: true", "ingressclass: own")
        + &numbered(&ingress("first", "a.test", "app"), 5)
        + &numbered(&ingress("second", "a.test", "other"), 6)
        + &numbered(&ingress("third", "c.test", "app"), 7).replace(": web", ": young")
        + &numbered(&ingress("fourth", "d.test", "app"), 8).replace(": web", ": missing")
        + &ingress("unattached", "e.test", "app").replace("ingress.citrix.com/listener", "x")
        + &service("app", "198.51.100.1");
    insta::assert_snapshot!(status_of(&build(&text)));
}

#[test]
fn last_good_version_is_said_to_be_one() {
    let good = numbered(&listener("web", 443), 1) + &ingress("app", "a.test", "app");
    let bad = good
        .replace("generation: 1", "generation: 2")
        .replace("vip: 192.0.2.1", "vip: x");
    let mut compiler = compiler();
    let mut build =
        |text: &str| compiler.build(&snapshot(&[("a.yaml", text)]), &Resolved::new(), 0);
    build(&good);
    let kept = desired(&build(&bad));
    assert_eq!(kept.listeners[0].state, State::Degraded);
    insta::assert_snapshot!(text(&kept));
}

#[test]
fn clusters_that_disagree() {
    let cluster = |on: &str, host: &str| {
        numbered(&shared().replace("passthrough: true", on), 1)
            + &ingress("app", host, "app")
            + &service("app", "198.51.100.1")
    };
    let build = build_clusters(&[
        ("east", cluster("passthrough: true", "a.test")),
        ("west", cluster("passthrough: false", "b.test")),
    ]);
    insta::assert_snapshot!(status_of(&build));
}

#[test]
fn ingress_of_any_address_has_none_to_show() {
    let text =
        listener("web", 443).replace("  vip: 192.0.2.1\n", "") + &ingress("app", "a.test", "app");
    let desired = desired(&build(&text));
    assert_eq!(desired.listeners[0].state, State::Served);
    assert_eq!(desired.listeners[0].addresses, Vec::<String>::new());
    assert_eq!(desired.ingresses[0].addresses, Vec::<String>::new());
}

#[test]
fn messages_are_as_long_as_an_event_may_be() {
    let hosts: String = (0..200).map(|n| format!("  - host: 'ä{n}'\n")).collect();
    let text = listener("web", 443)
        .replace("https", "udp")
        .replace("vip: 192.0.2.1", &format!("vip: '{}'", "ö".repeat(5_000)))
        + &ingress("app", "a.test", "app").replacen("  - host", &format!("{hosts}  - host"), 1);
    let desired = desired(&build(&text));
    assert!(desired.events.len() > 200);
    for event in &desired.events {
        assert!(
            event.message.len() <= MAX_MESSAGE,
            "{}",
            event.message.len()
        );
    }
    let status = &desired.listeners[0];
    assert!(status.status_message.len() <= MAX_MESSAGE);
    assert!(
        status
            .conditions
            .iter()
            .all(|condition| condition.message.len() <= MAX_MESSAGE)
    );
}

#[test]
fn condition_keeps_its_time_until_it_changes() {
    let at = |text: &str| -> Time { serde_json::from_value(text.into()).unwrap() };
    let (one, two) = (at("2026-01-01T00:00:00Z"), at("2026-01-02T00:00:00Z"));
    let right = desired(&build(&listener("web", 443))).listeners.remove(0);
    let wrong = desired(&build(&listener("web", 443).replace("https", "udp")))
        .listeners
        .remove(0);
    let first = right.as_api(None, &one);
    assert_eq!(right.as_api(Some(&first), &two), first, "nothing changed");
    let changed = wrong.as_api(Some(&first), &two);
    let times: Vec<_> = changed
        .conditions
        .unwrap()
        .into_iter()
        .map(|condition| (condition.type_, condition.last_transition_time == two))
        .collect();
    let expected = [
        ("Accepted", true),
        ("ResolvedRefs", false),
        ("Programmed", true),
        ("Conflicted", false),
    ];
    assert_eq!(times, expected.map(|(kind, new)| (kind.to_owned(), new)));
}

#[test]
fn same_problem_is_one_event() {
    let path = "      - path: /\n";
    let text = listener("web", 443)
        + &ingress("app", "a.test", "missing").replace("  - host", "  - host: b.test\n    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: missing, port: {number: 443}}}}]}\n  - host");
    assert!(text.contains(path));
    let desired = desired(&build(&text));
    let mut told: Vec<_> = desired.events.iter().collect();
    let all = told.len();
    told.sort_by_key(|event| format!("{event:?}"));
    told.dedup();
    assert_eq!(told.len(), all);
    assert!(
        desired
            .events
            .iter()
            .all(|event| event.object.kind != "File")
    );
}

#[test]
fn object_of_another_controller_gets_no_event() {
    let text = ingress("app", "a.test", "app");
    let of_another = |annotation: &str| {
        text.replace("ingress.citrix.com/listener: web", annotation)
            .replacen("spec:\n", "spec:\n  ingressClassName: cic-vpx\n", 1)
    };
    let slice = service("app", "198.51.100.1").replace(
        "kubernetes.io/service-name: app",
        "multicluster.kubernetes.io/service-name: app",
    );
    for object in [
        of_another("ingress.citrix.com/ssl-passthrough: \"True\""),
        of_another("ingress.citrix.com/listener: \"a/b/c\""),
        of_another("ingress.citrix.com/listner: web"),
        of_another("ingress.citrix.com/listener: missing"),
        slice,
    ] {
        let build = build_for(&["sni-router"], &object);
        assert_eq!(desired(&build).events, [], "{object}");
        assert!(!build.problems.is_empty(), "{object}");
    }
}

#[test]
fn event_is_as_severe_as_its_problem() {
    let unused = desired(&build(&listener("web", 443)));
    let wrong = desired(&build(&listener("web", 443).replace("https", "udp")));
    let severities = [unused, wrong].map(|desired| desired.events[0].severity);
    assert_eq!(severities, [Severity::Warning, Severity::Error]);
}
