//! `deploy/monitoring`: alerts, dashboard and configurations, checked by Prometheus' own tool, and
//! against docs/metrics.md. They need neither root nor a router.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{Value, json};
use sni_router_tests::documented::{self, Metric, repository};
use sni_router_tests::monitoring::{dashboard, metrics_in, promtool, words};
use sni_router_tests::netns::Scratch;

#[test]
fn rules_are_right_and_fire_as_their_tests_say() {
    promtool(&["check", "rules", "rules.yaml"]);
    promtool(&["test", "rules", "tests.yaml"]);
}

/// But for finding pods: Debian builds promtool without Kubernetes.
#[test]
fn prometheus_takes_the_configuration() {
    let mut config = yaml("deploy/monitoring/prometheus.yaml");
    let rules = repository("deploy/monitoring/rules.yaml");
    assert_eq!(config["rule_files"], json!(["rules.yaml"]));
    config["rule_files"] = json!([rules.canonicalize().expect("rules.yaml")]);
    let jobs = config["scrape_configs"].as_array_mut().expect("a list");
    let pods = jobs[1].as_object_mut().expect("a job");
    let finding = pods.remove("kubernetes_sd_configs");
    assert_eq!(finding, Some(json!([{ "role": "pod" }])));
    pods.insert("static_configs".to_owned(), json!([{ "targets": ["x:1"] }]));
    let scratch = Scratch::create(&format!("snir-{}-config", std::process::id()));
    let path = scratch.path().join("prometheus.yaml");
    fs::write(&path, config.to_string()).expect("write the configuration");
    promtool(&["check", "config", &path.display().to_string()]);
}

/// As rules, which promtool reads.
#[test]
fn queries_of_the_dashboard_are_promql() {
    let rules: Vec<_> = dashboard()
        .iter()
        .map(|query| {
            let query = query.replace("$__rate_interval", "5m");
            json!({ "record": "x", "expr": query.replace("$instance", ".*") })
        })
        .collect();
    assert!(rules.len() > 30, "{} queries", rules.len());
    // Each in a group, or they would be there twice.
    let groups: Vec<_> = (0..)
        .zip(&rules)
        .map(|(n, rule)| json!({ "name": n.to_string(), "rules": [rule] }))
        .collect();
    let scratch = Scratch::create(&format!("snir-{}-dashboard", std::process::id()));
    let path = scratch.path().join("dashboard.yaml");
    fs::write(&path, json!({ "groups": groups }).to_string()).expect("write the rules");
    promtool(&["check", "rules", "--lint=none", &path.display().to_string()]);
}

#[test]
fn queries_have_only_metrics_and_labels_that_are_documented() {
    let documented = documented::metrics();
    let mut used = BTreeSet::new();
    for query in alerts()
        .into_iter()
        .map(|alert| alert.expr)
        .chain(dashboard())
    {
        let metrics = metrics_in(&query);
        assert!(!metrics.is_empty(), "{query}");
        let mut known: BTreeSet<_> = ["instance", "job"].map(str::to_owned).into();
        for name in &metrics {
            if name == "up" {
                continue;
            }
            let metric = find(&documented, name);
            let metric = metric.unwrap_or_else(|| panic!("{name} is not documented: {query}"));
            known.extend(metric.labels.clone());
            if name.ends_with("_bucket") {
                known.insert("le".to_owned());
            }
            used.insert(name.clone());
        }
        for label in labels_in(&query) {
            assert!(known.contains(&label), "no {label} in {query}");
        }
    }
    assert!(used.len() > 30, "{used:?}");
}

#[test]
fn every_alert_has_a_runbook_that_names_it() {
    let text = documented::text();
    for Alert {
        name,
        runbook,
        severity,
        ..
    } in alerts()
    {
        let (page, anchor) = runbook.split_once('#').expect("an anchor");
        let repository = "https://github.com/sni-router/sni-router/blob/main/";
        assert_eq!(page.strip_prefix(repository), Some("docs/metrics.md"));
        let section = section(&text, anchor);
        let section = section.unwrap_or_else(|| panic!("{name}: no section #{anchor}"));
        assert!(section.contains(&format!("`{name}`")), "#{anchor}: {name}");
        let known = ["critical", "warning", "info"].contains(&&*severity);
        assert!(known, "{name}: {severity}");
    }
}

#[test]
fn links_of_the_document_lead_somewhere() {
    let text = documented::text();
    let links = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    let mut count = 0;
    for link in links.filter(|link| !link.starts_with("http")) {
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let page = match file {
            "" => text.clone(),
            file => fs::read_to_string(repository("docs").join(file))
                .or_else(|_| fs::read_dir(repository("docs").join(file)).map(|_| String::new()))
                .unwrap_or_else(|e| panic!("{link}: {e}")),
        };
        assert!(
            anchor.is_empty() || section(&page, anchor).is_some(),
            "{link}"
        );
        count += 1;
    }
    assert!(count > 40, "{count} links");
}

/// What other documents call a metric must be one.
#[test]
fn metrics_of_other_documents_are_documented() {
    let documented = documented::metrics();
    for entry in fs::read_dir(repository("docs")).expect("docs") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "md") {
            let text = fs::read_to_string(&path).expect("a document");
            for name in metrics_in(&text) {
                let is_known = find(&documented, &name).is_some() || name == "up";
                assert!(is_known, "{}: {name}", path.display());
            }
        }
    }
}

struct Alert {
    name: String,
    expr: String,
    severity: String,
    runbook: String,
}

fn alerts() -> Vec<Alert> {
    let rules = yaml("deploy/monitoring/rules.yaml");
    let groups = rules["groups"].as_array().expect("groups").iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().expect("rules"));
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let alerts: Vec<_> = rules
        .map(|rule| Alert {
            name: text(&rule["alert"]),
            expr: text(&rule["expr"]),
            severity: text(&rule["labels"]["severity"]),
            runbook: text(&rule["annotations"]["runbook_url"]),
        })
        .collect();
    assert!(alerts.len() > 10);
    alerts
}

fn yaml(path: &str) -> Value {
    let text = fs::read_to_string(repository(path));
    let text = text.unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Labels that are compared with something or grouped by.
fn labels_in(query: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let bare = without_strings(query);
    for rest in bare.split('{').skip(1) {
        let matchers = rest.split('}').next().unwrap_or_default();
        found.extend(words(matchers).map(str::to_owned));
    }
    for by in ["by (", "on ("] {
        for rest in bare.split(by).skip(1) {
            let labels = rest.split(')').next().unwrap_or_default();
            found.extend(words(labels).map(str::to_owned));
        }
    }
    found
}

fn without_strings(text: &str) -> String {
    text.split('"').step_by(2).collect()
}

/// A metric by the name of one of its series.
fn find<'d>(documented: &'d BTreeMap<String, Metric>, name: &str) -> Option<&'d Metric> {
    documented.get(name).or_else(|| {
        let ends = ["_bucket", "_sum", "_count"].iter();
        let base = ends.filter_map(|end| name.strip_suffix(end)).next()?;
        documented.get(base).filter(|it| it.kind == "histogram")
    })
}

/// The text below the heading with this anchor, up to the next heading.
fn section<'t>(text: &'t str, anchor: &str) -> Option<&'t str> {
    let mut parts = text.split("\n#").skip(1);
    parts.find(|part| {
        let heading = part.lines().next().unwrap_or_default();
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let letters = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        letters.collect::<String>().replace(' ', "-") == anchor
    })
}
