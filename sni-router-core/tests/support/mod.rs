//! Models for the tests of the table.
#![allow(dead_code, reason = "not every test file uses all of it")]

use std::fmt::Write;
use std::net::SocketAddr;

use sni_router_core::model::{
    Backend, BackendKey, Cluster, Listener, Method, Model, ObjectKey, Route, Vip,
};
use sni_router_core::problem::ObjectRef;
use sni_router_core::table::RouteTable;

pub fn model(listeners: Vec<Listener>) -> Model {
    Model {
        listeners,
        ..Model::default()
    }
}

/// A listener on `vips`, of which `*` is [`Vip::Any`].
pub fn listener(name: &str, vips: &[&str], port: u16, routes: Vec<Route>) -> Listener {
    let vip = |text: &&str| match *text {
        "*" => Vip::Any,
        addr => Vip::Addr(addr.parse().unwrap()),
    };
    Listener {
        key: key(name),
        vips: vips.iter().map(vip).collect(),
        port,
        routes,
    }
}

/// A route of `Ingress default/ingress-NUMBER` to [`backend`] of that number.
pub fn route(pattern: &str, number: usize) -> Route {
    Route {
        pattern: if pattern == "*" { "" } else { pattern }.parse().unwrap(),
        backend: backend(number),
        origin: object(&format!("ingress-{number}")),
    }
}

/// Port 443 of a Service with two endpoints.
pub fn backend(number: usize) -> Backend {
    let service = key(&format!("service-{number}"));
    let key = BackendKey::of(service, "443", Method::default());
    let [_, a, b, c] = (number as u32).to_be_bytes();
    let endpoints = [8443, 9443]
        .map(|port| SocketAddr::from(([10, a, b, c], port)))
        .to_vec();
    Backend {
        key,
        endpoints: vec![endpoints],
    }
}

pub fn object(name: &str) -> ObjectRef {
    ObjectRef {
        kind: "Ingress".into(),
        cluster: Cluster::default(),
        namespace: Some("default".into()),
        name: name.into(),
    }
}

/// Everything a table says, except its generation, as text.
pub fn describe(table: &RouteTable) -> String {
    let mut text = String::new();
    for listener in table.listeners() {
        writeln!(
            text,
            "{} {:?} {}",
            listener.front.key, listener.front.vips, listener.front.port
        )
        .unwrap();
        for route in listener.routes() {
            let addrs: Vec<_> = route.backend.endpoints().map(|e| e.addr()).collect();
            writeln!(
                text,
                "  {} -> {} {:?} {addrs:?} ({})",
                route.pattern, route.backend.key, route.backend.key.method, route.origin,
            )
            .unwrap();
        }
    }
    text
}

fn key(name: &str) -> ObjectKey {
    ObjectKey {
        namespace: "default".into(),
        name: name.into(),
        ..ObjectKey::default()
    }
}
