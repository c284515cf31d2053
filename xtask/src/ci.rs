//! `ci`: what `.ci/run` runs.

use std::process::ExitCode;

use anyhow::Result;

use crate::totals::Totals;
use crate::{cluster, lint, setup, test};

/// Setup, lint, then every test there is.
pub fn ci() -> Result<ExitCode> {
    setup::setup()?;
    lint::lint()?;
    let mut totals = Totals::default();
    test::run(&mut totals)?;
    cluster::run(&mut totals)?;
    Ok(totals.conclude())
}
