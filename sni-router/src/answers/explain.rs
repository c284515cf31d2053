//! What a client gets, from the table that is in force.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use sni_router_core::balance::Backend;
use sni_router_core::model::Method;
use sni_router_core::name::{Host, HostPattern};
use sni_router_core::table::{Listener, RouteTable};

use super::{Inside, method_name};
use crate::api::{Explanation, Question, Tried};
use crate::observe::admin::Refused;
use crate::proxy::connect::uptime;

pub(super) fn explain(inside: &Inside, question: &Question) -> Result<Vec<Explanation>, Refused> {
    let host = question.host.as_ref().map(|host| {
        host.parse::<Host>().map_err(|_| {
            Refused::Nonsense(format!(
                "host {host:?} is no server name that a client can send"
            ))
        })
    });
    let host = host.transpose()?;
    let client = address("client", question.client.as_ref())?;
    let vip = address("vip", question.vip.as_ref())?;
    let table = inside.table.load();
    let listeners = asked_for(&table, vip, question.port);
    let explained = listeners
        .iter()
        .map(|listener| at(inside, listener, host.as_ref(), client));
    Ok(explained.collect())
}

fn asked_for(table: &RouteTable, vip: Option<IpAddr>, port: Option<u16>) -> Vec<&Arc<Listener>> {
    match (vip, port) {
        (Some(vip), port) => {
            let local = SocketAddr::new(vip, port.unwrap_or(443));
            table.listener(local).into_iter().collect()
        }
        (None, Some(port)) => table
            .listeners()
            .filter(|listener| listener.front.port == port)
            .collect(),
        (None, None) => table.listeners().collect(),
    }
}

fn address(field: &str, text: Option<&String>) -> Result<Option<IpAddr>, Refused> {
    let read = |text: &String| {
        text.parse::<IpAddr>()
            .map(|addr| addr.to_canonical())
            .map_err(|_| Refused::Nonsense(format!("{field} {text:?} is no address")))
    };
    text.map(read).transpose()
}

fn at(
    inside: &Inside,
    listener: &Listener,
    host: Option<&Host>,
    client: Option<IpAddr>,
) -> Explanation {
    let front = &listener.front;
    let route = listener.route(host);
    let refused = if client.is_some_and(|client| inside.gate.denies(client)) {
        Some("the client's address is denied: its connections are reset")
    } else if inside.gate.drains_listener(&front.key) {
        Some("the Listener is draining: new connections are reset")
    } else {
        None
    };
    let (endpoint, why) = match (route, client) {
        (None, _) => (None, "no route takes the name: the client gets the answer of --on-unknown-host or --on-no-sni".to_owned()),
        (Some(_), None) => (None, "say which client, to see its endpoint".to_owned()),
        (Some(route), Some(client)) => next(inside, &route.backend, client),
    };
    Explanation {
        listener: front.key.to_string(),
        vips: front.vips.iter().map(ToString::to_string).collect(),
        port: front.port,
        refused: refused.map(str::to_owned),
        tried: HostPattern::candidates(host)
            .into_iter()
            .map(|pattern| Tried {
                origin: listener
                    .routes()
                    .find(|route| route.pattern == pattern)
                    .map(|route| route.origin.to_string()),
                pattern: pattern.to_string(),
            })
            .collect(),
        route: route.map(|route| route.pattern.to_string()),
        origin: route.map(|route| route.origin.to_string()),
        backend: route.map(|route| inside.backend(&route.backend)),
        endpoint: endpoint.map(|endpoint| endpoint.to_string()),
        why,
    }
}

/// The endpoint of the client's next connection, and why that one.
fn next(inside: &Inside, backend: &Backend, client: IpAddr) -> (Option<SocketAddr>, String) {
    let draining = inside.gate.drained_endpoints();
    let Some(endpoint) = backend.preview(client, &draining, uptime()) else {
        let why = match backend.endpoint_count() {
            0 => "there is no endpoint that is ready: the client gets an alert",
            _ => "every endpoint is draining: the client gets an alert",
        };
        return (None, why.to_owned());
    };
    let decides = match backend.key.method {
        Method::RoundRobin => "it is this one's turn",
        Method::LeastConnection => "it has the fewest connections",
        Method::SourceIpHash => {
            "the hash of the client's address leads to it, as long as the endpoints stay the same"
        }
    };
    let passed_over = backend
        .endpoints()
        .filter(|other| other.is_failing())
        .count();
    let mut why = format!("by {}, {decides}", method_name(backend.key.method));
    if backend.key.shares().len() > 1 {
        why += ", within the cluster that is chosen by policy and weight";
    }
    if passed_over > 0 {
        why += &format!(
            "; {passed_over} of {} endpoints are failing and passed over",
            backend.endpoint_count()
        );
    }
    if !draining.is_empty() {
        why += "; endpoints that drain are left out";
    }
    (Some(endpoint), why)
}
