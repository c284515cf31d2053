//! `test-cluster`: the tests that need a real Kubernetes API server.

use std::process::ExitCode;

use anyhow::Result;

use crate::command::{as_root, step};
use crate::control_plane::{self, ASSETS};
use crate::setup;
use crate::test::{CLUSTER, build_integration, check_machine};
use crate::totals::Totals;

/// Runs them, as root, and ends with a line of totals.
pub fn test() -> Result<ExitCode> {
    Totals::of(run)
}

/// The same, adding up what there is.
pub fn run(totals: &mut Totals) -> Result<()> {
    setup::ensure()?;
    check_machine()?;
    let assets = step("control plane", control_plane::assets)?;
    let tests = step("build the cluster tests", || {
        build_integration(|name| name == CLUSTER)
    })?;
    step("cluster tests", || {
        let mut each = tests.iter();
        // Through env, since sudo may keep what it knows not.
        each.try_for_each(|test| {
            let mut command = as_root("env")?;
            command.arg(format!("{ASSETS}={}", assets.display()));
            totals.count(command.arg(test))
        })
    })
}
