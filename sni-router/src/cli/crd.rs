//! `sni-router crd`: the definition of the Listener type, for `kubectl apply`.

use std::process::ExitCode;

use anyhow::Result;
use sni_router_core::manifest::crd::definition;

use super::print;

/// Print the CustomResourceDefinition of Listener (citrix.com/v1).
///
/// It takes every Listener that NetScaler's own definition takes. Where that one is installed,
/// keep it: this one only adds columns and status fields.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Prints it as YAML.
pub fn run(Args {}: Args) -> Result<ExitCode> {
    print(&serde_saphyr::to_string(&definition())?)?;
    Ok(ExitCode::SUCCESS)
}
