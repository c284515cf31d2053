//! The benchmark of a router that reads the API, on its smallest load: so that it does not rot.

use std::process::Command;

use serde_json::Value;
use sni_router_tests::daemon::{binary, built};

#[test]
fn start_and_changes_are_measured() {
    let bench = built("sni-router-bench");
    let mut command = Command::new(&bench);
    command.args(["cluster", "--ingresses", "10", "--changes", "3"]);
    command.args(["--datapath", "userspace"]);
    let output = command.env("SNI_ROUTER_BIN", binary()).output();
    let output = output.unwrap_or_else(|e| panic!("start {}: {e}", bench.display()));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    let number = |key: &str| {
        report[key]
            .as_f64()
            .unwrap_or_else(|| panic!("{key}: {report}"))
    };
    assert!(number("start_ms") > 0.0, "{report}");
    assert!(number("effect_ms") > 0.0, "{report}");
    assert!(number("effect_ms") <= number("effect_most_ms"), "{report}");
    assert!(number("resident_bytes") > 1e6, "{report}");
}
