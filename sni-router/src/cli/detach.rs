//! `detach`: nothing of a router stays on this host.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;
use sni_router_common::names;
use tokio::runtime::Builder;

use crate::claim::Claims;
use crate::datapath::bpf::{PinError, Pins, version_of};
use crate::datapath::tc::detach::{end_left, remove_filters};

/// End the connections that a stopped router has left to the kernel, and remove what it has left:
/// programs, maps, local routes of VIPs. For this network namespace only.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// The --pin-dir that the router had
    #[arg(long, value_name = "DIR", default_value = super::PIN_DIR)]
    pin_dir: PathBuf,
}

/// Removes, and says what there was.
pub fn run(args: Args) -> Result<ExitCode> {
    // Also one that pins nothing has VIPs and filters here.
    if let Some(pid) = other_router() {
        bail!("a router runs here (process {pid}); stop it first, by SIGTERM");
    }
    let pins = match Pins::own(&args.pin_dir) {
        Ok(pins) => Some(pins),
        // Then nothing can have been pinned.
        Err(PinError::NotBpf(_)) => None,
        Err(PinError::Owned(pid)) => {
            bail!("a router of another process namespace runs here (process {pid} there)")
        }
        Err(error) => return Err(error.into()),
    };
    let mut ended = 0;
    let mut versions = vec![names::ABI];
    if let Some(pins) = pins {
        versions.extend(pins.foreign().iter().filter_map(|dir| version_of(dir)));
        ended = end_left(&pins).context("cannot read the flow table")?;
        pins.remove().context("cannot remove what is pinned")?;
    }
    versions.into_iter().for_each(remove_filters);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut claims = Claims::new(true, Arc::default()).context("no netlink")?;
        claims.remove_others(&BTreeSet::new()).await;
        anyhow::Ok(())
    })?;
    println!("{ended} connections ended; nothing of sni-router is left here");
    Ok(ExitCode::SUCCESS)
}

/// Another process that runs this program's `run` in this network namespace.
fn other_router() -> Option<String> {
    let of = |pid: &str| {
        let dir = Path::new("/proc").join(pid);
        let namespace = fs::read_link(dir.join("ns/net")).ok()?;
        let arguments = fs::read(dir.join("cmdline")).ok()?;
        let verb = arguments.split(|byte| *byte == 0).nth(1)?.to_vec();
        Some((fs::read(dir.join("comm")).ok()?, namespace, verb))
    };
    let (name, namespace, _) = of("self")?;
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    pids.find(|pid| {
        pid.bytes().all(|byte| byte.is_ascii_digit())
            && of(pid) == Some((name.clone(), namespace.clone(), b"run".to_vec()))
    })
}
