//! The dashboard for Grafana, on what a router really says of itself.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};
use sni_router_tests::daemon::Datapath;
use sni_router_tests::monitoring::{dashboard, metrics_in, promtool};
use sni_router_tests::netns::Scratch;
use sni_router_tests::openmetrics::{Exposition, Sample};
use sni_router_tests::raw::{hello, read_to_end, write};
use sni_router_tests::rig::Rig;
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until_some};

/// Of a cluster's API; a router that reads files has none of them.
const OF_CLUSTERS: [&str; 2] = [
    "sni_router_source_stale",
    "sni_router_source_watch_errors_total",
];

/// The series of one scrape, each of which grows from there, are what Prometheus has; none of the queries may
/// come out empty, be it by a label that is not there or by two that do not match.
#[test]
fn every_query_of_the_dashboard_finds_something_in_a_routers_metrics() {
    let rig = Rig::start(Datapath::Tc, &[]);
    rig.open().exchange();
    let stranger = rig.lab.connect(Family::V4);
    write(&stranger, &hello("nobody.example.com"));
    read_to_end(&stranger, SOON);
    // That the first connection has ended is heard of a moment later.
    let text = until_some("its end is counted", SOON, || {
        let text = rig.router.get("/metrics").body;
        let mut lines = text.lines();
        let is_counted = lines.any(|line| line.starts_with(CLOSED) && line.contains(BY_TC));
        is_counted.then_some(text)
    });
    let scrape = Exposition::parse(&text).unwrap_or_else(|what| panic!("{what}\n{text}"));
    let samples: Vec<_> = scrape
        .families
        .values()
        .flat_map(|it| &it.samples)
        .collect();
    let there: BTreeSet<_> = samples.iter().map(|sample| &*sample.name).collect();

    let (mut missing, mut expected) = (BTreeSet::new(), Vec::new());
    for query in dashboard() {
        let metrics = metrics_in(&query);
        let absent = metrics.iter().filter(|name| !there.contains(&***name));
        let absent: Vec<_> = absent.cloned().collect();
        if absent.is_empty() {
            expected.push(finds_something(&query));
        }
        missing.extend(absent);
    }
    assert_eq!(missing, OF_CLUSTERS.map(str::to_owned).into());
    assert!(expected.len() > 30, "{} queries", expected.len());
    let test = json!({
        "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m",
            "input_series": samples.into_iter().map(series).collect::<Vec<_>>(),
            "promql_expr_test": expected,
        }],
    });
    let scratch = Scratch::create(&format!("snir-{}-queries", std::process::id()));
    let path = scratch.path().join("test.yaml");
    fs::write(&path, test.to_string()).expect("write the test");
    promtool(&["test", "rules", &path.display().to_string()]);
}

const CLOSED: &str = "sni_router_connections_closed_total{";
const BY_TC: &str = "datapath=\"tc\"";

fn series(sample: &Sample) -> Value {
    let labels = sample.labels.iter();
    let labels: String = labels
        .map(|(name, value)| format!("{name}={value:?},"))
        .collect();
    let name = &sample.name;
    json!({
        "series": format!("{name}{{{labels}job=\"sni-router\",instance=\"a:9901\"}}"),
        "values": format!("{}+1x10", sample.value),
    })
}

fn finds_something(query: &str) -> Value {
    let query = query.replace("$__rate_interval", "5m");
    let query = query.replace("$instance", ".*");
    json!({
        "expr": format!("count({query}) > bool 0"),
        "eval_time": "8m",
        "exp_samples": [{ "labels": "{}", "value": 1 }],
    })
}
