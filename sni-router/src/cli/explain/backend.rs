//! Which endpoints a route has, and which one a client meets.

use std::net::IpAddr;
use std::time::Duration;

use sni_router_core::balance::Backend;
use sni_router_core::model::{Method, Share};

use super::line;
use crate::answers::method_name;

pub(super) fn explain(backend: &Backend, client: Option<IpAddr>, text: &mut String) {
    let key = &backend.key;
    line(
        text,
        "backend",
        &format!("Service {key}, {}", method_name(key.method)),
    );
    match key.shares() {
        [_] => line(text, "endpoints", &endpoints(backend, |_| true)),
        shares => {
            for share in shares {
                let is_its = |cluster: &str| cluster == share.service.cluster.as_str();
                let shown = format!("{}: {}", place(share), endpoints(backend, is_its));
                line(text, "cluster", &shown);
            }
        }
    }
    let Some(client) = client else { return };
    let shown = match key.method {
        Method::SourceIpHash => {
            let picked = backend.pick(client.to_canonical(), &[], Duration::ZERO);
            let picked = picked.map_or("none".into(), |lease| lease.endpoint().addr().to_string());
            format!("{picked} for the client {client}")
        }
        Method::RoundRobin | Method::LeastConnection => {
            format!("any of them: {client} is not what decides")
        }
    };
    line(text, "endpoint", &shown);
}

/// `east, tier 0, weight 3`
fn place(share: &Share) -> String {
    let weight = match share.weight {
        Some(weight) => format!("weight {weight}"),
        None => "as many connections as endpoints".into(),
    };
    let name = match share.service.cluster.as_str() {
        "" => "without a name",
        name => name,
    };
    format!("{name}, tier {}, {weight}", share.tier)
}

fn endpoints(backend: &Backend, of: impl Fn(&str) -> bool) -> String {
    let endpoints: Vec<_> = backend
        .endpoints()
        .filter(|endpoint| of(endpoint.cluster().as_str()))
        .map(|endpoint| endpoint.addr().to_string())
        .collect();
    if endpoints.is_empty() {
        return "none known without DNS or a running cluster: the client gets an alert".into();
    }
    endpoints.join(", ")
}
