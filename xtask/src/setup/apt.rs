//! Debian's package manager.

use std::process::{Command, Stdio};
use std::sync::Once;

use anyhow::{Context as _, Result};

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
