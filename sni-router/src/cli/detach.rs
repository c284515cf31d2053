//! `detach`: nothing of a router stays on this host.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;
use tokio::runtime::Builder;

use crate::claim::Claims;
use crate::datapath::bpf::{PinError, Pins};
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
    let pins = match Pins::own(&args.pin_dir) {
        Ok(pins) => Some(pins),
        // Then nothing can have been pinned.
        Err(PinError::NotBpf(_)) => None,
        Err(PinError::Owned(pid)) => {
            bail!("a router runs here (process {pid}); stop it first, by SIGTERM")
        }
        Err(error) => return Err(error.into()),
    };
    let mut ended = 0;
    if let Some(pins) = pins {
        ended = end_left(&pins).context("cannot read the flow table")?;
        pins.remove().context("cannot remove what is pinned")?;
    }
    remove_filters();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut claims = Claims::new(true).context("no netlink")?;
        claims.remove_others(&BTreeSet::new()).await;
        anyhow::Ok(())
    })?;
    println!("{ended} connections ended; nothing of sni-router is left here");
    Ok(ExitCode::SUCCESS)
}
