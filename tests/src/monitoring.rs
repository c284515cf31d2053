//! What `deploy/monitoring` has, and Prometheus' own tool.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::documented::repository;

/// Runs it in `deploy/monitoring`; panics with what it says when it fails.
#[track_caller]
pub fn promtool(args: &[&str]) {
    let mut command = Command::new(tool());
    command
        .args(args)
        .current_dir(repository("deploy/monitoring"));
    let output = command.output();
    let output = output.unwrap_or_else(|e| panic!("{}: {e}", tool().display()));
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "promtool {args:?}: {said}");
}

/// `$PROMTOOL`, else the one that `cargo xtask test` has unpacked, else the one on `PATH`.
fn tool() -> PathBuf {
    if let Some(path) = env::var_os("PROMTOOL") {
        return path.into();
    }
    // target/<profile>/deps/<test>-<hash>
    let test = env::current_exe().expect("the test's own path");
    let target = test.ancestors().nth(3).expect("target");
    let unpacked = target.join("promtool/usr/bin/promtool");
    if unpacked.is_file() {
        return unpacked;
    }
    Path::new("promtool").to_owned()
}

/// All queries of the dashboard, of its panels and its annotations.
pub fn dashboard() -> Vec<String> {
    let path = repository("deploy/monitoring/dashboard.json");
    let text = fs::read_to_string(path).expect("dashboard.json");
    let mut found = Vec::new();
    collect(&serde_json::from_str(&text).expect("JSON"), &mut found);
    found
}

fn collect(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            into.extend(
                fields
                    .get("expr")
                    .and_then(Value::as_str)
                    .map(str::to_owned),
            );
            fields.values().for_each(|value| collect(value, into));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, into)),
        _ => {}
    }
}

/// Our metrics, and `up`, among the words of a text that are in no quotation marks.
pub fn metrics_in(text: &str) -> BTreeSet<String> {
    words(text)
        .filter(|word| {
            let is_ours = word.starts_with("sni_router_") && !word.starts_with("sni_router_tests");
            is_ours || word.starts_with("process_") || *word == "up"
        })
        .map(str::to_owned)
        .collect()
}

/// Words of letters, digits and underscores.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}
