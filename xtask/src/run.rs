//! `build` and `run`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::{self, as_root, cargo, target_dir};
use crate::setup;

/// Builds the release binary.
pub fn build() -> Result<()> {
    setup::ensure()?;
    command::run(cargo().args(["build", "--release", "--package", "sni-router"]))
}

/// Builds the binary that the tests run, too: slower, and there in a third of the time.
pub fn build_for_tests() -> Result<()> {
    setup::ensure()?;
    command::run(cargo().args(["build", "--package", "sni-router"]))
}

/// Builds, then becomes `sni-router run ARGS`, as root.
pub fn run(args: &[OsString]) -> Result<()> {
    as_root("true")?;
    build()?;
    become_command(as_root(binary())?.arg("run").args(args))
}

/// The release binary.
pub fn binary() -> PathBuf {
    target_dir().join("release/sni-router")
}

/// What [`build_for_tests`] builds.
pub fn binary_for_tests() -> PathBuf {
    target_dir().join("debug/sni-router")
}

/// Replaces this process, so that signals and the exit status are the command's own.
///
/// # Errors
///
/// It cannot be started; otherwise this does not return.
pub fn become_command(command: &mut Command) -> Result<()> {
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", command::line(command)))
}
