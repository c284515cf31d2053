//! `test`: every test there is.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, getrlimit};
use serde_json::Value;

use crate::command::{self, as_root, cargo, is_root, step, target_dir};
use crate::setup;
use crate::totals::Totals;

/// Runs the unit and property tests as the current user, then the integration tests as root, and
/// ends with a line of totals. A failing test does not keep the others from running.
pub fn test() -> Result<ExitCode> {
    Totals::of(run)
}

/// The same, adding up what there is.
pub fn run(totals: &mut Totals) -> Result<()> {
    setup::ensure()?;
    check_machine()?;
    step("unit and property tests", || {
        let mut command = cargo();
        command.args(["test", "--workspace", "--no-fail-fast"]);
        totals.count(command.args(["--exclude", INTEGRATION]))
    })?;
    let binaries = step("build the integration tests", || {
        build_integration(|name| name != CLUSTER && name != ADMIN)
    })?;
    let promtool = step("promtool", setup::promtool)?;
    step("integration tests", || {
        // The tests' own default is a thread a core.
        let mut each = binaries.iter();
        // Through env, since sudo may keep what it knows not.
        each.try_for_each(|binary| {
            let mut command = as_root("env")?;
            command.arg(format!("PROMTOOL={}", promtool.display()));
            totals.count(command.arg(binary))
        })
    })
}

/// Builds the integration tests and the programs that they start, and gives the tests with these
/// names.
pub fn build_integration(wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let mut build = cargo();
    build.arg("build");
    for package in ["sni-router", "sni-router-bench", "xtask"] {
        build.args(["--package", package]);
    }
    command::run(&mut build)?;
    let mut command = cargo();
    command.args(["test", "--package", INTEGRATION, "--no-run", "--quiet"]);
    let messages = command::output(command.arg("--message-format=json"))?;
    let tests = messages.lines().filter_map(executable);
    let binaries: Vec<_> = tests
        .filter(|(name, _)| wanted(name))
        .map(|(_, path)| path)
        .collect();
    if binaries.is_empty() {
        bail!("cargo built no integration test");
    }
    Ok(binaries)
}

/// The name and the program of a test in one of cargo's messages, if it tells of one.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let is_test = message["profile"]["test"].as_bool()?;
    let path = message["executable"].as_str()?;
    let name = message["target"]["name"].as_str()?;
    is_test.then(|| (name.to_owned(), path.into()))
}

/// Says in one line what keeps the integration tests from running here, before anything is built.
pub fn check_machine() -> Result<()> {
    if !is_root() && as_root("true").is_err() {
        bail!(
            "the integration tests need root, and there is no sudo: run this as root; `cargo test` \
             alone runs the unit tests"
        );
    }
    command::output(as_root("unshare")?.args(["--net", "true"]))
        .context("the integration tests need network namespaces (CAP_SYS_ADMIN)")?;
    let limit = getrlimit(Resource::Nofile).maximum;
    if let Some(limit) = limit.filter(|limit| *limit < OPEN_FILES) {
        bail!(
            "the tests need {OPEN_FILES} open files, the hard limit is {limit}: raise `ulimit -Hn`"
        );
    }
    if fs::metadata("/proc/sys/net/ipv6").is_err() {
        bail!("the integration tests need IPv6, and this kernel has it switched off");
    }
    fs::create_dir_all(target_dir())?;
    Ok(())
}

/// The test that needs a Kubernetes API server, which `test-cluster` provides.
pub const CLUSTER: &str = "cluster";

/// The test that needs a browser and a fuzzer, which `test-admin` provides.
pub const ADMIN: &str = "admin";

/// The package of the integration tests.
const INTEGRATION: &str = "sni-router-tests";

/// 2,000 connections have two sockets in the test and two, with pipes, in the router.
const OPEN_FILES: u64 = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executable_is_taken_from_test_artifacts_only() {
        let message = r#"{"target":{"name":"x"},"profile":{"test":true},"executable":"/t/x"}"#;
        assert_eq!(executable(message), Some(("x".into(), "/t/x".into())));
        assert_eq!(executable(&message.replace("true", "false")), None);
        assert_eq!(executable(&message.replace("\"/t/x\"", "null")), None);
        assert_eq!(executable("not JSON"), None);
    }
}
