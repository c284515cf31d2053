//! Costs of the route table: compiling 10,000 routes, looking one up, picking an endpoint.
//!
//! `cargo bench -p sni-router-core --bench table`

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use divan::{Bencher, black_box};
use sni_router_core::balance::Backend;
use sni_router_core::model::{self, BackendKey, Method, Model, ObjectKey, Vip};
use sni_router_core::name::Host;
use sni_router_core::problem::ObjectRef;
use sni_router_core::table::RouteTable;

fn main() {
    divan::main();
}

/// From the accepted socket's address to the route, for hosts in an order that defeats caches.
#[divan::bench(args = ["exact", "wildcard", "unknown"])]
fn look_up(bencher: Bencher<'_, '_>, case: &str) {
    let table = RouteTable::compile(&model(ROUTES, 2, Method::default()), 1, None);
    let local: SocketAddr = "192.0.2.1:443".parse().unwrap();
    let hosts: Vec<Host> = (0..ROUTES)
        // 7919 is prime to the number of routes: every one comes up once.
        .map(|i| i * 7919 % ROUTES)
        .map(|i| match case {
            "exact" => host(i / 2 * 2),
            "wildcard" => format!("www.{}", host(i / 2 * 2 + 1)),
            _ => format!("www.{}.test", host(i)),
        })
        .map(|name| name.parse().unwrap())
        .collect();
    let mut next = hosts.iter().cycle();
    bencher.bench_local(|| {
        let host = next.next();
        let listener = table.listener(black_box(local)).unwrap();
        let found = listener.route(host).is_some();
        assert_eq!(found, case != "unknown");
    });
}

/// A start: nothing to take over.
#[divan::bench(args = [Method::LeastConnection, Method::SourceIpHash])]
fn compile(bencher: Bencher<'_, '_>, method: Method) {
    let model = model(ROUTES, 3, method);
    bencher.bench_local(|| RouteTable::compile(black_box(&model), 1, None));
}

/// A reload in which one Service of the 10,000 got another endpoint.
#[divan::bench(args = [Method::LeastConnection, Method::SourceIpHash])]
fn recompile(bencher: Bencher<'_, '_>, method: Method) {
    let mut model = model(ROUTES, 3, method);
    let before = RouteTable::compile(&model, 1, None);
    model.listeners[0].routes[0].backend.endpoints[0].push(endpoint(ROUTES, 0));
    bencher.bench_local(|| RouteTable::compile(black_box(&model), 2, Some(&before)));
}

#[divan::bench(args = [2, 16, 128, 1024])]
fn pick_round_robin(bencher: Bencher<'_, '_>, endpoints: usize) {
    pick(bencher, endpoints, Method::RoundRobin);
}

#[divan::bench(args = [2, 16, 128, 1024])]
fn pick_least_connection(bencher: Bencher<'_, '_>, endpoints: usize) {
    pick(bencher, endpoints, Method::LeastConnection);
}

#[divan::bench(args = [2, 16, 128, 1024])]
fn pick_source_ip_hash(bencher: Bencher<'_, '_>, endpoints: usize) {
    pick(bencher, endpoints, Method::SourceIpHash);
}

/// The first pick of a backend, or its compilation, fills the Maglev table.
#[divan::bench(args = [2, 40, 41, 655])]
fn fill_maglev(bencher: Bencher<'_, '_>, endpoints: usize) {
    let model = model(1, endpoints, Method::SourceIpHash);
    bencher.bench_local(|| {
        let table = RouteTable::compile(&model, 1, None);
        only_backend(&table).pick(IpAddr::from([198, 51, 100, 1]), &[], Duration::ZERO)
    });
}

fn pick(bencher: Bencher<'_, '_>, endpoints: usize, method: Method) {
    let table = RouteTable::compile(&model(1, endpoints, method), 1, None);
    let backend = only_backend(&table);
    // The first pick may fill the Maglev table, see `fill_maglev`.
    backend.pick(IpAddr::from([198, 51, 100, 1]), &[], Duration::ZERO);
    let mut client = 0u32;
    bencher.bench_local(|| {
        client = client.wrapping_add(1);
        backend.pick(IpAddr::from(client.to_be_bytes()), &[], Duration::ZERO)
    });
}

fn only_backend(table: &RouteTable) -> Arc<Backend> {
    Arc::clone(table.backends().next().unwrap())
}

/// One listener whose routes are exact and wildcard in turns, each with a Service of its own.
fn model(routes: usize, endpoints: usize, method: Method) -> Model {
    let routes = (0..routes)
        .map(|i| model::Route {
            pattern: if i % 2 == 0 {
                host(i)
            } else {
                format!("*.{}", host(i))
            }
            .parse()
            .unwrap(),
            backend: model::Backend {
                key: BackendKey::of(
                    ObjectKey {
                        namespace: "shops".into(),
                        name: format!("shop-{i}"),
                        ..ObjectKey::default()
                    },
                    "https",
                    method,
                ),
                endpoints: vec![(0..endpoints).map(|n| endpoint(i, n)).collect()],
            },
            origin: ObjectRef {
                kind: "Ingress".into(),
                namespace: Some("shops".into()),
                name: format!("shop-{i}"),
                ..ObjectRef::default()
            },
        })
        .collect();
    let listener = model::Listener {
        key: ObjectKey {
            namespace: "default".into(),
            name: "web".into(),
            ..ObjectKey::default()
        },
        vips: vec![Vip::Addr(IpAddr::from([192, 0, 2, 1]))],
        port: 443,
        routes,
    };
    Model {
        listeners: vec![listener],
        ..Model::default()
    }
}

fn host(number: usize) -> String {
    format!("shop-{number}.customers.example.com")
}

fn endpoint(service: usize, number: usize) -> SocketAddr {
    let [_, a, b, c] = (service as u32).to_be_bytes();
    SocketAddr::from(([10, a, b, c], 1024 + number as u16))
}

const ROUTES: usize = 10_000;
