//! `ci`: what `.ci/run` runs.

use std::process::ExitCode;

use anyhow::Result;

use crate::{lint, setup, test};

/// Setup, lint, then the README's test command.
pub fn ci() -> Result<ExitCode> {
    setup::setup()?;
    lint::lint()?;
    test::test()
}
