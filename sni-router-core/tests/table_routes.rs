//! What a table answers, compared with the plainest way to find the answer.

mod support;

use std::net::SocketAddr;

use proptest::prelude::*;
use sni_router_core::model::{Listener, Model, Route, Vip};
use sni_router_core::name::{Host, HostPattern};
use sni_router_core::table::RouteTable;
use support::{backend, describe, listener, model, object, route};

proptest! {
    #[test]
    fn route_is_the_oracles_when_hosts_and_patterns_are_random(
        patterns in proptest::collection::btree_set(pattern(), 0..40),
        hosts in proptest::collection::vec(proptest::option::of(host()), 1..40),
    ) {
        let routes = patterns.iter().enumerate().map(|(i, p)| route(&p.to_string(), i)).collect();
        let model = model(vec![listener("web", &["*"], 443, routes)]);
        let table = RouteTable::compile(&model, 1, None);
        let compiled = table.listeners().next().unwrap();
        for host in &hosts {
            let found = compiled.route(host.as_ref()).map(|route| &route.pattern);
            let expected = oracle(&model.listeners[0].routes, host.as_ref()).map(|r| &r.pattern);
            prop_assert_eq!(found, expected, "{:?}", host);
        }
    }
}

/// Looks at every route. Longer patterns are the more specific ones among wildcards.
fn oracle<'a>(routes: &'a [Route], host: Option<&Host>) -> Option<&'a Route> {
    routes
        .iter()
        .filter(|route| match host {
            Some(host) => route.pattern.matches(host),
            None => route.pattern == HostPattern::Any,
        })
        .max_by_key(|route| match &route.pattern {
            HostPattern::Exact(_) => (2, 0),
            HostPattern::Wildcard(suffix) => (1, suffix.as_str().len()),
            HostPattern::Any => (0, 0),
        })
}

/// Names of so few labels that patterns and hosts meet often.
fn host() -> impl Strategy<Value = Host> {
    proptest::collection::vec(
        proptest::sample::select(vec!["a", "b", "com", "xn--a"]),
        1..5,
    )
    .prop_map(|labels| labels.join(".").parse().unwrap())
}

fn pattern() -> impl Strategy<Value = HostPattern> {
    prop_oneof![
        8 => host().prop_map(HostPattern::Exact),
        8 => host().prop_map(HostPattern::Wildcard),
        1 => Just(HostPattern::Any),
    ]
}

#[test]
fn no_name_takes_only_the_catch_all() {
    let routes = vec![route("a.test", 0), route("*.test", 1)];
    let table = compile(vec![listener("web", &["*"], 443, routes.clone())]);
    assert!(table.listeners().next().unwrap().route(None).is_none());

    let routes = routes.into_iter().chain([route("", 2)]).collect();
    let table = compile(vec![listener("web", &["*"], 443, routes)]);
    let found = table.listeners().next().unwrap().route(None).unwrap();
    assert_eq!(
        (&found.pattern, found.origin.name.as_str()),
        (&HostPattern::Any, "ingress-2")
    );
}

#[test]
fn listener_is_the_one_with_the_vip_before_the_one_with_every_address() {
    let table = compile(vec![
        listener("every", &["*"], 443, vec![]),
        listener("one", &["192.0.2.1", "2001:db8::1"], 443, vec![]),
        listener("other", &["192.0.2.1"], 8443, vec![]),
    ]);
    for (local, expected) in [
        ("192.0.2.1:443", Some("one")),
        ("[::ffff:192.0.2.1]:443", Some("one")),
        ("[2001:db8::1]:443", Some("one")),
        ("192.0.2.2:443", Some("every")),
        ("[2001:db8::2]:443", Some("every")),
        ("192.0.2.1:8443", Some("other")),
        ("192.0.2.2:8443", None),
        ("192.0.2.1:80", None),
    ] {
        let found = table
            .listener(local.parse().unwrap())
            .map(|l| l.front.key.name.as_str());
        assert_eq!(found, expected, "{local}");
    }
    let mut scoped: std::net::SocketAddrV6 = "[2001:db8::1]:443".parse().unwrap();
    scoped.set_scope_id(3);
    scoped.set_flowinfo(7);
    assert_eq!(
        table
            .listener(SocketAddr::V6(scoped))
            .unwrap()
            .front
            .key
            .name,
        "one"
    );
}

#[test]
fn first_counts_when_the_model_has_something_twice() {
    let table = compile(vec![
        listener(
            "first",
            &["192.0.2.1"],
            443,
            vec![route("a.test", 0), route("a.test", 1)],
        ),
        listener("second", &["192.0.2.1"], 443, vec![]),
    ]);
    let listener = table.listener("192.0.2.1:443".parse().unwrap()).unwrap();
    assert_eq!(listener.front.key.name, "first");
    let route = listener.route(Some(&"a.test".parse().unwrap())).unwrap();
    assert_eq!(route.origin, object("ingress-0"));
}

#[test]
fn tables_are_equal_when_compiled_twice_from_one_model() {
    let routes = (0..200).map(|i| route(&format!("h{i}.test"), i)).collect();
    let model = model(vec![
        listener("a", &["192.0.2.1"], 443, routes),
        listener(
            "b",
            &["*"],
            443,
            vec![Route {
                backend: backend(7),
                ..route("", 7)
            }],
        ),
    ]);
    let once = RouteTable::compile(&model, 1, None);
    let twice = RouteTable::compile(&model, 1, None);
    let after = RouteTable::compile(&model, 2, Some(&once));
    assert_eq!(describe(&once), describe(&twice));
    assert_eq!(describe(&once), describe(&after));
    assert_eq!((once.generation(), after.generation()), (1, 2));
    assert_eq!(
        once.backends().len(),
        200,
        "route 7 of both listeners shares its backend"
    );
}

#[test]
fn table_can_be_shared_between_threads() {
    fn shareable<T: Send + Sync + 'static>() {}
    shareable::<RouteTable>();
    shareable::<sni_router_core::balance::Lease>();
}

fn compile(listeners: Vec<Listener>) -> RouteTable {
    RouteTable::compile(
        &Model {
            listeners,
            ..Model::default()
        },
        1,
        None,
    )
}

#[test]
fn vip_is_found_when_the_model_has_it_v4_mapped() {
    let mut mapped = listener("web", &[], 443, vec![]);
    mapped.vips = vec![Vip::Addr("::ffff:192.0.2.1".parse().unwrap())];
    assert!(
        compile(vec![mapped])
            .listener("192.0.2.1:443".parse().unwrap())
            .is_some()
    );
}
