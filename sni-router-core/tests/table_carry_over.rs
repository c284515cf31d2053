//! What a table takes over from the one before it.

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sni_router_core::balance::{Backend, Endpoint, Lease};
use sni_router_core::model::{Method, Model, Route};
use sni_router_core::table::RouteTable;
use support::{backend, listener, model, route};

#[test]
fn running_connections_are_counted_when_the_table_changes() {
    let before = RouteTable::compile(&service(Method::LeastConnection, &[A, B]), 1, None);
    let lease = pick(&before);
    let after = RouteTable::compile(
        &service(Method::LeastConnection, &[A, B, C]),
        2,
        Some(&before),
    );
    drop(before);

    let endpoint = endpoint(&after, lease.endpoint().addr());
    assert!(Arc::ptr_eq(&endpoint, lease.endpoint()));
    assert_eq!(endpoint.active(), 1);
    drop(lease);
    assert_eq!(endpoint.active(), 0);
}

#[test]
fn endpoint_is_remembered_when_it_comes_back_before_its_connections_end() {
    let first = RouteTable::compile(&service(Method::RoundRobin, &[A]), 1, None);
    let lease = pick(&first);
    let second = RouteTable::compile(&service(Method::RoundRobin, &[B]), 2, Some(&first));
    drop(first);
    let third = RouteTable::compile(&service(Method::RoundRobin, &[]), 3, Some(&second));
    let fourth = RouteTable::compile(&service(Method::RoundRobin, &[A]), 4, Some(&third));
    assert_eq!(endpoint(&fourth, addr(A)).active(), 1);
    drop(lease);
    assert_eq!(endpoint(&fourth, addr(A)).active(), 0);
}

#[test]
fn endpoint_starts_anew_when_it_comes_back_after_its_connections_ended() {
    let first = RouteTable::compile(&service(Method::RoundRobin, &[A]), 1, None);
    drop(pick(&first));
    assert_eq!(endpoint(&first, addr(A)).total(), 1);
    let second = RouteTable::compile(&service(Method::RoundRobin, &[B]), 2, Some(&first));
    drop(first);
    let third = RouteTable::compile(&service(Method::RoundRobin, &[A]), 3, Some(&second));
    assert_eq!(endpoint(&third, addr(A)).total(), 0);
}

#[test]
fn endpoints_are_shared_when_one_service_is_balanced_in_two_ways() {
    let with = |method, pattern| {
        let mut route = route(pattern, 0);
        route.backend.key.method = method;
        route
    };
    let routes = vec![
        with(Method::RoundRobin, "a.test"),
        with(Method::LeastConnection, "b.test"),
    ];
    let table = RouteTable::compile(&model(vec![listener("web", &["*"], 443, routes)]), 1, None);
    let backends: Vec<_> = table
        .listeners()
        .flat_map(|l| l.routes())
        .map(|r| Arc::clone(&r.backend))
        .collect();
    assert!(!Arc::ptr_eq(&backends[0], &backends[1]));
    assert!(Arc::ptr_eq(
        backends[0].endpoints().next().unwrap(),
        backends[1].endpoints().next().unwrap()
    ));
}

#[test]
fn endpoints_are_apart_when_services_share_an_address() {
    let mut routes = vec![route("a.test", 0), route("b.test", 1)];
    routes[1].backend.endpoints = routes[0].backend.endpoints.clone();
    let table = RouteTable::compile(&model(vec![listener("web", &["*"], 443, routes)]), 1, None);
    let endpoints: Vec<_> = table
        .backends()
        .map(|b| Arc::clone(b.endpoints().next().unwrap()))
        .collect();
    assert!(!Arc::ptr_eq(&endpoints[0], &endpoints[1]));
    assert_eq!(endpoints[0].addr(), endpoints[1].addr());
}

#[test]
fn round_robin_goes_on_when_the_table_changes() {
    let before = RouteTable::compile(&service(Method::RoundRobin, &[A, B]), 1, None);
    assert_eq!(pick(&before).endpoint().addr(), addr(A));
    let after = RouteTable::compile(&service(Method::RoundRobin, &[A, B, C]), 2, Some(&before));
    assert_eq!(pick(&after).endpoint().addr(), addr(B));
    // The old table may be in use a little longer; both take turns together.
    assert_eq!(pick(&before).endpoint().addr(), addr(A));
    assert_eq!(pick(&after).endpoint().addr(), addr(A));
}

#[test]
fn backend_is_kept_when_its_endpoints_did_not_change() {
    let model = service(Method::SourceIpHash, &[A, B]);
    let before = RouteTable::compile(&model, 1, None);
    let after = RouteTable::compile(&model, 2, Some(&before));
    assert!(Arc::ptr_eq(&only_backend(&before), &only_backend(&after)));
}

fn service(method: Method, hosts: &[u8]) -> Model {
    let mut backend = backend(0);
    backend.key.method = method;
    backend.endpoints = vec![hosts.iter().map(|&host| addr(host)).collect()];
    let route = Route {
        backend,
        ..route("a.test", 0)
    };
    model(vec![listener("web", &["*"], 443, vec![route])])
}

fn pick(table: &RouteTable) -> Lease {
    only_backend(table)
        .pick(IpAddr::V4(Ipv4Addr::LOCALHOST), &[], Duration::ZERO)
        .unwrap()
}

fn endpoint(table: &RouteTable, addr: SocketAddr) -> Arc<Endpoint> {
    let backend = only_backend(table);
    let found = backend.endpoints().find(|endpoint| endpoint.addr() == addr);
    Arc::clone(found.expect("the address is in the table"))
}

fn only_backend(table: &RouteTable) -> Arc<Backend> {
    Arc::clone(table.backends().next().unwrap())
}

fn addr(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, host], 8443))
}

const A: u8 = 1;
const B: u8 = 2;
const C: u8 = 3;
