//! The manifests of the repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sni_router_tests::cluster::objects::documents;
use sni_router_tests::daemon;

/// What `sni-router crd` prints.
#[track_caller]
pub fn crd() -> String {
    let output = Command::new(daemon::binary()).arg("crd").output();
    let output = output.expect("start sni-router");
    assert!(output.status.success(), "sni-router crd: {output:?}");
    String::from_utf8(output.stdout).expect("sni-router prints text")
}

/// The only object of a file below `examples/`.
#[track_caller]
pub fn example(path: &str) -> Value {
    let text = fs::read_to_string(repository().join("examples").join(path)).expect("an example");
    let mut objects = documents(&text).expect("YAML");
    assert_eq!(objects.len(), 1, "{path}");
    objects.remove(0)
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
