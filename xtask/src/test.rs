//! `test`: every test there is.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, getrlimit};
use serde_json::Value;

use crate::command::{self, as_root, cargo, is_root, line, step, target_dir};
use crate::setup;

/// Runs the unit and property tests as the current user, then the integration tests as root, and
/// ends with a line of totals. A failing test does not keep the others from running.
pub fn test() -> Result<ExitCode> {
    setup::ensure()?;
    check_machine()?;
    let mut totals = Totals::default();
    step("unit and property tests", || {
        let mut command = cargo();
        command.args(["test", "--workspace", "--no-fail-fast"]);
        count(command.args(["--exclude", INTEGRATION]), &mut totals)
    })?;
    let binaries = step("build the integration tests", build_integration)?;
    step("integration tests", || {
        for binary in &binaries {
            // The tests' own default is a thread a core.
            count(&mut as_root(binary)?, &mut totals)?;
        }
        Ok(())
    })?;
    let Totals {
        passed,
        failed,
        ignored,
        broken,
    } = &totals;
    for command in broken {
        println!("did not end as tests do: {command}");
    }
    println!("\n{passed} passed, {failed} failed, {ignored} skipped");
    Ok(match *failed == 0 && broken.is_empty() && *passed > 0 {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// What test binaries have said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Commands that failed without saying that a test failed: a crash, an error of compilation.
    broken: Vec<String>,
}

impl Totals {
    /// Adds up `test result: ok. 12 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in counts.split("; ") {
            match part.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                Some((number, "ignored")) => self.ignored += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

/// Runs tests, shows what they print and adds it up.
fn count(command: &mut Command, totals: &mut Totals) -> Result<()> {
    println!("  $ {}", line(command));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", line(command)))?;
    let failed = totals.failed;
    let stdout = child.stdout.take().context("no pipe")?;
    for bytes in BufReader::new(stdout).split(b'\n') {
        // A test may print anything, also what is not UTF-8.
        let bytes = bytes?;
        let text = String::from_utf8_lossy(&bytes);
        println!("{text}");
        totals.add(&text);
    }
    if !child.wait()?.success() && totals.failed == failed {
        totals.broken.push(line(command));
    }
    Ok(())
}

/// Builds the integration tests and the programs that they start, and gives the tests.
fn build_integration() -> Result<Vec<PathBuf>> {
    let mut build = cargo();
    build.arg("build");
    for package in ["sni-router", "sni-router-bench", "xtask"] {
        build.args(["--package", package]);
    }
    command::run(&mut build)?;
    let mut command = cargo();
    command.args(["test", "--package", INTEGRATION, "--no-run", "--quiet"]);
    let messages = command::output(command.arg("--message-format=json"))?;
    let binaries: Vec<_> = messages.lines().filter_map(executable).collect();
    if binaries.is_empty() {
        bail!("cargo built no integration test");
    }
    Ok(binaries)
}

/// The program in one of cargo's messages, if it tells of one.
fn executable(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let is_test = message["profile"]["test"].as_bool()?;
    let path = message["executable"].as_str()?;
    is_test.then(|| path.into())
}

/// Says in one line what keeps the integration tests from running here, before anything is built.
fn check_machine() -> Result<()> {
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

/// The package of the integration tests.
const INTEGRATION: &str = "sni-router-tests";

/// 2,000 connections have two sockets in the test and two, with pipes, in the router.
const OPEN_FILES: u64 = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_add_up_result_lines_and_nothing_else() {
        let mut totals = Totals::default();
        for line in [
            "running 3 tests",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 9 filtered out; finished in 2s",
            "4 passed; 5 failed",
        ] {
            totals.add(line);
        }
        let expected = Totals {
            passed: 13,
            failed: 2,
            ignored: 1,
            broken: vec![],
        };
        assert_eq!(totals, expected);
    }

    #[test]
    fn executable_is_taken_from_test_artifacts_only() {
        let message =
            r#"{"reason":"compiler-artifact","profile":{"test":true},"executable":"/t/x"}"#;
        assert_eq!(executable(message), Some("/t/x".into()));
        assert_eq!(executable(&message.replace("true", "false")), None);
        assert_eq!(executable(&message.replace("\"/t/x\"", "null")), None);
        assert_eq!(executable("not JSON"), None);
    }
}
