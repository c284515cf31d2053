use super::super::clusters::ClusterMetrics;
use super::*;

#[test]
fn text_has_every_family_when_nothing_happened() {
    let text = metrics().encode().unwrap();
    for line in [
        concat!(
            "sni_router_build_info{version=\"",
            env!("CARGO_PKG_VERSION"),
            "\"} 1"
        ),
        "# TYPE sni_router_connections_opened counter",
        "# TYPE sni_router_connections_closed counter",
        r#"sni_router_connections_active{datapath="tc"} 0"#,
        "sni_router_hello_seconds_count 0",
        "sni_router_hello_bytes_count 0",
        r#"sni_router_connect_seconds_bucket{le="+Inf"} 0"#,
        r#"sni_router_connect_failures_total{kind="refused"} 0"#,
        "sni_router_retries_total 0",
        r#"sni_router_datapath_declines_total{reason="full"} 0"#,
        r#"sni_router_reloads_total{result="failed"} 0"#,
        "sni_router_config_generation 0",
        r#"sni_router_config_problems{severity="error"} 0"#,
        "# EOF",
    ] {
        assert!(
            text.lines().any(|l| l == line),
            "{line} is missing in\n{text}"
        );
    }
}

#[test]
fn text_tells_what_was_counted() {
    let metrics = metrics();
    let web = ObjectKey {
        namespace: "default".into(),
        name: "web".into(),
        ..ObjectKey::default()
    };
    let listener = metrics.listener(Some(&web));
    listener.opened();
    metrics.listener(Some(&web)).opened();
    listener.closed(0, Some(1));
    listener.closed(1, None);
    let lost = metrics.listener(None);
    lost.opened();
    lost.closed(1, None);
    metrics.carrying(0);
    metrics.carrying(1);
    metrics.carried(0);
    metrics.adopted();
    metrics.hello(Duration::from_micros(900), 517);
    metrics.hello(Duration::from_secs(60), 512);
    metrics.connected(Duration::from_millis(1), 2);
    metrics.connect_failed(1);
    metrics.declined(0);
    metrics.applied(
        7,
        Problems {
            notes: 1,
            warnings: 2,
            errors: 3,
        },
    );
    metrics.apply_failed();

    let text = metrics.encode().unwrap();
    for line in [
        r#"sni_router_connections_opened_total{listener="default/web"} 2"#,
        r#"sni_router_connections_opened_total{listener=""} 1"#,
        r#"sni_router_connections_closed_total{listener="default/web",reason="done",datapath="userspace"} 1"#,
        r#"sni_router_connections_closed_total{listener="default/web",reason="lost",datapath="none"} 1"#,
        r#"sni_router_connections_closed_total{listener="",reason="lost",datapath="none"} 1"#,
        r#"sni_router_connections_active{datapath="tc"} 0"#,
        r#"sni_router_connections_active{datapath="userspace"} 1"#,
        "sni_router_flows_adopted_total 1",
        r#"sni_router_hello_seconds_bucket{le="0.0005"} 0"#,
        r#"sni_router_hello_seconds_bucket{le="0.001"} 1"#,
        r#"sni_router_hello_seconds_bucket{le="5.0"} 1"#,
        r#"sni_router_hello_seconds_bucket{le="+Inf"} 2"#,
        "sni_router_hello_seconds_sum 60.0009",
        "sni_router_hello_seconds_count 2",
        // The bound belongs to its bucket.
        r#"sni_router_hello_bytes_bucket{le="512.0"} 1"#,
        r#"sni_router_hello_bytes_bucket{le="1024.0"} 2"#,
        "sni_router_hello_bytes_sum 1029.0",
        r#"sni_router_connect_seconds_bucket{le="0.001"} 1"#,
        "sni_router_retries_total 2",
        r#"sni_router_connect_failures_total{kind="refused"} 0"#,
        r#"sni_router_connect_failures_total{kind="timeout"} 1"#,
        r#"sni_router_datapath_declines_total{reason="full"} 1"#,
        r#"sni_router_reloads_total{result="applied"} 1"#,
        r#"sni_router_reloads_total{result="failed"} 1"#,
        "sni_router_config_generation 7",
        r#"sni_router_config_problems{severity="note"} 1"#,
        r#"sni_router_config_problems{severity="warning"} 2"#,
        r#"sni_router_config_problems{severity="error"} 3"#,
    ] {
        assert!(
            text.lines().any(|l| l == line),
            "{line} is missing in\n{text}"
        );
    }
}

#[test]
fn nothing_is_lost_when_threads_meet_a_new_listener() {
    let metrics = metrics();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for number in 0..100 {
                    let name = format!("l{number}");
                    let key = ObjectKey {
                        namespace: "default".into(),
                        name,
                        ..ObjectKey::default()
                    };
                    metrics.listener(Some(&key)).opened();
                }
            });
        }
    });
    let text = metrics.encode().unwrap();
    let opened: Vec<_> = text
        .lines()
        .filter(|line| line.contains("connections_opened_total{"))
        .collect();
    assert_eq!(opened.len(), 100);
    assert!(opened.iter().all(|line| line.ends_with(" 4")), "{opened:?}");
}

fn metrics() -> Metrics {
    Metrics::new(Labels {
        reasons: &["done", "lost"],
        datapaths: &["tc", "userspace"],
        declines: &["full"],
        connect_failures: &["refused", "timeout"],
    })
}

#[test]
fn text_tells_how_clusters_fare() {
    let metrics = metrics().with_clusters(Box::new(|| {
        vec![ClusterMetrics {
            cluster: "east".into(),
            objects: vec![("Ingress", 7)],
            watch_errors: vec![("Secret", 2)],
            is_stale: true,
            last_event: Some(1.5),
            definition_problems: 1,
            is_leader: false,
            writes: vec![("status", 3)],
        }]
    }));
    let text = metrics.encode().unwrap();
    for line in [
        r#"sni_router_source_objects{cluster="east",kind="Ingress"} 7.0"#,
        r#"sni_router_source_watch_errors_total{cluster="east",kind="Secret"} 2"#,
        r#"sni_router_source_stale{cluster="east"} 1.0"#,
        r#"sni_router_source_last_event_timestamp_seconds{cluster="east"} 1.5"#,
        r#"sni_router_source_definition_problems{cluster="east"} 1.0"#,
        r#"sni_router_leader{cluster="east"} 0.0"#,
        r#"sni_router_source_writes_total{cluster="east",what="status"} 3"#,
    ] {
        assert!(
            text.lines().any(|l| l == line),
            "{line} is missing in\n{text}"
        );
    }
}
