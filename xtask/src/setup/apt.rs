//! Debian's package manager.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Once;

use anyhow::{Context as _, Result, bail};

use super::apt_get;
use crate::command::{output, run};
use crate::toolchain::find_program;

/// Whether this system has apt.
pub fn is_here() -> bool {
    find_program("apt-get").is_some()
}

/// Whether all these packages can be installed.
pub fn has(packages: &[String]) -> bool {
    is_here() && (knows(packages) || (update().is_ok() && knows(packages)))
}

/// Installs packages.
///
/// # Errors
///
/// apt-get fails with fresh lists too.
pub fn install(packages: &[String]) -> Result<()> {
    if !has(packages) {
        println!("setup: apt does not list all of {}", packages.join(" "));
    }
    let install = || {
        let mut command = apt_get()?;
        command.args(["install", "--no-install-recommends"]);
        run(command.args(packages).stdout(Stdio::null()))
    };
    // Old lists name files that the mirror no longer has.
    install()
        .or_else(|_| update().and_then(|()| install()))
        .with_context(|| {
            format!(
                "cannot install {}: they are in Debian 12 with its security archive",
                packages.join(" ")
            )
        })
}

/// Unpacks a package below a directory, without installing it: nothing of it is started.
///
/// # Errors
///
/// apt does not have it, or it cannot be unpacked.
pub fn unpack(package: &str, dir: &Path) -> Result<()> {
    if !has(&[package.to_owned()]) {
        bail!("apt does not list {package}");
    }
    fs::create_dir_all(dir)?;
    let mut download = Command::new("apt-get");
    download.args(["--quiet", "download", package]);
    run(download.current_dir(dir).stdout(Stdio::null()))?;
    let entries = fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut archives = entries.filter(|path| path.extension().is_some_and(|it| it == "deb"));
    let archive = archives.next().context("apt has downloaded nothing")?;
    run(Command::new("dpkg-deb")
        .arg("--extract")
        .arg(&archive)
        .arg(dir))?;
    Ok(fs::remove_file(archive)?)
}

fn knows(packages: &[String]) -> bool {
    let mut command = Command::new("apt-cache");
    command.args(["show", "--no-all-versions"]).args(packages);
    output(&mut command).is_ok()
}

/// Fetches the package lists, once a run.
fn update() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        result = apt_get().and_then(|mut apt| run(apt.arg("update").stdout(Stdio::null())));
    });
    result
}
