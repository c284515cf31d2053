//! `setup`: installs what is missing, and nothing else.
//!
//! What is missing is found out anew every time, by looking at the things themselves: no stamp
//! that could be wrong. It takes some 50 ms, so every verb does it.

mod apt;
mod need;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use self::need::Need;
use crate::command::{as_root, run, target_dir};
use crate::toolchain::{LINKER_VERSION, Route, find_program};

/// Installs what is missing and tells what it does.
///
/// # Errors
///
/// Something cannot be installed; the message says what to install by hand.
pub fn setup() -> Result<()> {
    if find_program("rustup").is_none() {
        bail!("the BPF toolchain is managed by rustup: install it from https://rustup.rs");
    }
    let (route, needs) = look()?;
    if needs.is_empty() {
        println!(
            "setup: nothing is missing (BPF by the {} toolchain)",
            route.toolchain()
        );
        return Ok(());
    }
    install(route, &needs)?;
    let (_, left) = look()?;
    if !left.is_empty() {
        bail!(
            "setup has run, but these are still missing:\n{}",
            instructions(&left)
        );
    }
    println!("setup: done");
    Ok(())
}

/// What other verbs call: silent when nothing is missing.
///
/// # Errors
///
/// As [`setup`].
pub fn ensure() -> Result<()> {
    match look() {
        Ok((_, needs)) if needs.is_empty() => Ok(()),
        _ => setup(),
    }
}

/// Sees to one more program, for the verbs that not everybody needs.
///
/// # Errors
///
/// It is missing, and apt does not bring it.
pub fn ensure_program(name: &'static str, package: &'static str) -> Result<()> {
    if find_program(name).is_some() {
        return Ok(());
    }
    if !apt::is_here() {
        bail!("the program {name} is missing ({package} of Debian)");
    }
    apt::install(&[package.to_owned()])
}

/// promtool, which checks the alerts of `deploy/monitoring`: the one on `PATH`, else that of Debian, out
/// of a package that is not installed, since it would start a Prometheus.
///
/// # Errors
///
/// It is missing, and apt does not bring it.
pub fn promtool() -> Result<PathBuf> {
    if let Some(path) = find_program("promtool") {
        return Ok(path);
    }
    let dir = target_dir().join("promtool");
    let path = dir.join("usr/bin/promtool");
    if !path.is_file() {
        unpack("prometheus", &dir).context(
            "the program promtool is missing (it comes with Prometheus): put it on PATH",
        )?;
    }
    Ok(path)
}

/// Unpacks a package of Debian below a directory, without installing it.
///
/// # Errors
///
/// apt does not have it.
pub fn unpack(package: &str, dir: &Path) -> Result<()> {
    if !apt::is_here() {
        bail!("this is not a Debian system, and has no package {package}");
    }
    apt::unpack(package, dir)
}

/// The route that is ready, or else is to be made so, and what is missing.
fn look() -> Result<(Route, Vec<Need>)> {
    let ready = Route::choose().map_err(|error| anyhow!(error))?;
    let mut needs = need::programs();
    let route = match ready {
        Some(route) => route,
        None => to_prepare()?,
    };
    if !need::has_clippy(route) || (ready.is_none() && !route.has_core()) {
        needs.extend(need::compiler(route));
    }
    if ready.is_none() {
        needs.extend(need::fitting_linker(route));
    }
    Ok((route, needs))
}

/// The route to prepare where none is ready: the forced one, else nightly where it has rust-src
/// and apt the LLVM that bpf-linker needs for it, else Debian's rustc.
fn to_prepare() -> Result<Route> {
    if let Some(route) = Route::forced().map_err(|error| anyhow!(error))? {
        return Ok(route);
    }
    if !Route::Nightly.has_core() {
        return Ok(Route::Bpf);
    }
    let takes = |llvm| need::linker_takes(llvm) && apt::has(&need::llvm_packages(llvm));
    match Route::Nightly.llvm() {
        Some(llvm) if !apt::is_here() || takes(llvm) => Ok(Route::Nightly),
        _ => Ok(Route::Bpf),
    }
}

/// Brings everything that is missing, in the order in which one needs the other.
fn install(route: Route, needs: &[Need]) -> Result<()> {
    if !apt::is_here() {
        bail!(
            "this is not a Debian system; please install these, then try again:\n{}",
            instructions(needs)
        );
    }
    let (linker, needs): (Vec<_>, Vec<_>) = needs.iter().partition(|need| need.is_linker());
    let packages: Vec<_> = needs.iter().flat_map(|need| need.packages()).collect();
    if !packages.is_empty() {
        apt::install(&packages)?;
    }
    for mut command in needs.iter().filter_map(|need| need.command()) {
        run(&mut command)?;
    }
    if linker.is_empty() {
        return Ok(());
    }
    // Which LLVM the linker needs is known only now that the compiler is here.
    let linker = need::linker(route)?;
    apt::install(&linker.packages())?;
    println!("setup: building bpf-linker {LINKER_VERSION}, about a minute");
    linker
        .command()
        .map_or(Ok(()), |mut command| run(&mut command))
}

fn instructions(needs: &[Need]) -> String {
    let lines: Vec<_> = needs.iter().map(|need| format!("  - {need}")).collect();
    lines.join("\n")
}

/// `apt-get`, as root, that asks no questions.
fn apt_get() -> Result<Command> {
    let mut command = as_root("env")?;
    command.args([
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "--quiet",
        "--yes",
    ]);
    Ok(command)
}
