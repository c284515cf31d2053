//! What users install, as kustomize and helm make it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::assets::program;
use super::objects::documents;

/// The objects of a directory below `deploy/`, as `kustomize build` gives them.
#[track_caller]
pub fn kustomize(dir: &str) -> Vec<Value> {
    let mut command = Command::new(program("kustomize"));
    command.arg("build").arg(deploy().join(dir));
    objects(&output(command).unwrap_or_else(|e| panic!("kustomize build {dir}: {e}")))
}

/// The objects of the chart with these values, its CRDs included, as `helm template` gives them.
///
/// # Errors
///
/// What helm says of values that it refuses.
pub fn helm(values: &[&str]) -> Result<Vec<Value>, String> {
    let mut command = Command::new(program("helm"));
    command.args(["template", "sni-router"]);
    command.arg(deploy().join("helm/sni-router"));
    command.args(["--namespace", "sni-router", "--include-crds"]);
    // helm takes itself for a client of 1.20 where nobody tells it.
    command.args(["--kube-version", "1.35"]);
    for value in values {
        command.args(["--set-json", value]);
    }
    output(command).map(|text| objects(&text))
}

/// What `helm lint` says; an error if it finds one.
///
/// # Errors
///
/// The chart is not right.
pub fn helm_lint() -> Result<String, String> {
    let mut command = Command::new(program("helm"));
    command.args(["lint", "--strict", "--kube-version", "1.35"]);
    command.arg(deploy().join("helm/sni-router"));
    output(command)
}

/// The directory of the deployment.
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

#[track_caller]
fn objects(text: &str) -> Vec<Value> {
    documents(text).unwrap_or_else(|e| panic!("{e}:\n{text}"))
}

fn output(mut command: Command) -> Result<String, String> {
    let output = command.output().map_err(|e| e.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr) + &text(&output.stdout)),
    }
}
