use std::collections::BTreeMap;

use sni_router_core::model::Model;

use super::*;
use crate::carry::Decline;
use crate::counted::labels;
use crate::observe::metrics::Metrics;
use crate::proxy::connect::ConnectFailure;
use crate::proxy::reason::CloseReason;

const DOCUMENT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md"));
const DATAPATHS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/datapaths.md"));

/// All metrics there are, where nothing has happened.
fn text() -> String {
    let metrics = Metrics::new(labels()).with_clusters(Box::new(Vec::new));
    let measured = Measured {
        table: Arc::new(ArcSwap::from_pointee(RouteTable::compile(
            &Model::default(),
            0,
            None,
        ))),
        bytes: Bytes {
            meter: Meter::new(1),
            counters: None,
        },
        counters: None,
        fill: Fill::default(),
        proxy: Weak::new(),
        lookups: Arc::default(),
        unbound: Arc::default(),
        unread: Arc::default(),
    };
    metrics.measure(measured.sampler());
    metrics.encode().unwrap()
}

/// Name and type of every row of the document's tables of metrics.
fn documented() -> BTreeMap<String, String> {
    let rows = DOCUMENT.lines().filter_map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        let is_metric = name.starts_with("sni_router_") || name.starts_with("process_");
        is_metric.then(|| Some((name.to_owned(), cells.next()?.to_owned())))?
    });
    rows.collect()
}

#[test]
fn document_has_every_metric_and_no_other() {
    let text = text();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let found: BTreeMap<_, _> = types
        .map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            let end = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            (format!("{name}{end}"), kind.to_owned())
        })
        .collect();
    assert_eq!(found, documented());
}

#[test]
fn document_has_every_value_of_labels_that_come_from_enums() {
    let events = Counter::ALL.into_iter().filter(|it| !it.is_bytes());
    let events = events.map(|it| it.as_str().split_once('_').unwrap().1);
    let values = [
        CloseReason::ALL.map(CloseReason::as_str).to_vec(),
        ConnectFailure::ALL.map(ConnectFailure::as_str).to_vec(),
        Kind::ALL.map(Kind::as_str).to_vec(),
        events.collect(),
    ];
    for value in values.concat() {
        assert!(DOCUMENT.contains(&format!("`{value}`")), "{value}");
    }
    for decline in Decline::ALL.map(Decline::as_str) {
        assert!(DATAPATHS.contains(&format!("`{decline}`")), "{decline}");
    }
}

#[test]
fn text_has_what_was_measured() {
    let text = text();
    for line in [
        r#"sni_router_bytes_total{datapath="tc",direction="up"} 0"#,
        r#"sni_router_host_connections_opened_total{listener="",host="other"} 0"#,
        r#"sni_router_endpoint_connects_total{service="",endpoint="other",result="failed"} 0"#,
        "sni_router_hellos_pending 0",
        "sni_router_hellos_pending_limit 0",
        "sni_router_access_lines_lost_total 0",
        "sni_router_listener_addresses_unbound 0",
        "sni_router_manifests_unread 0",
        r#"sni_router_dns_lookups_total{result="answered"} 0"#,
    ] {
        assert!(text.lines().any(|it| it == line), "no {line} in\n{text}");
    }
}
