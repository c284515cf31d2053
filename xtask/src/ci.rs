//! `ci`: what `.ci/run` runs.

use std::process::ExitCode;

use anyhow::Result;

use crate::totals::Totals;
use crate::{admin, cluster, lint, setup, test};

/// Setup, lint, then every test there is.
pub fn ci() -> Result<ExitCode> {
    setup::setup()?;
    lint::lint()?;
    Totals::of(|totals| {
        test::run(totals)?;
        admin::run(totals)?;
        cluster::run(totals, None)
    })
}
