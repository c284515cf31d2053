//! Starting other programs.

use std::env;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::toolchain::find_program;

/// The directory of the workspace.
pub fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    // Relative to where cargo runs, which is the workspace (see `cargo`).
    let dir = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    workspace().join(dir)
}

/// cargo, as the user calls it, in the workspace.
pub fn cargo() -> Command {
    in_workspace(Command::new("cargo"))
}

/// cargo of the toolchain that rustup knows by this name, in the workspace.
pub fn cargo_of(toolchain: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", toolchain, "cargo"]);
    in_workspace(command)
}

fn in_workspace(mut command: Command) -> Command {
    command.current_dir(workspace());
    // Meant for the cargo of build scripts (.cargo/config.toml); xtask's own may speak.
    command.env_remove("CARGO_TERM_QUIET");
    command
}

/// A program started as root: directly, or through `sudo -E`.
///
/// # Errors
///
/// This process is not root and there is no sudo.
pub fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    if find_program("sudo").is_none() {
        bail!("this needs root, and there is no sudo: run it as root");
    }
    let mut command = Command::new("sudo");
    command.arg("-E").arg(program);
    Ok(command)
}

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs a command to its end, its output going where ours goes.
///
/// # Errors
///
/// It cannot be started, or fails.
pub fn run(command: &mut Command) -> Result<()> {
    println!("  $ {}", line(command));
    std::io::stdout().flush()?;
    let status = command.stdin(Stdio::null()).status();
    let status = status.with_context(|| format!("cannot start {}", line(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", line(command));
    }
    Ok(())
}

/// Runs a command to its end and gives what it printed.
///
/// # Errors
///
/// It cannot be started, or fails; its standard error is in the message.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {}", line(command)))?;
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}",
            line(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a step of a verb, with a heading before and the time it took after.
///
/// # Errors
///
/// Those of the step, naming it.
pub fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("== {name}");
    let start = Instant::now();
    let result = work().with_context(|| name.to_owned())?;
    println!("== {name}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(result)
}

/// A command as one would type it.
pub fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(OsStr::to_string_lossy));
    words.join(" ")
}
