//! `test-cluster`: the tests that need a real Kubernetes API server.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::command::{as_root, step};
use crate::control_plane::{self, ASSETS};
use crate::setup;
use crate::test::{CLUSTER, build_integration, check_machine};
use crate::totals::Totals;

/// Runs them, as root, and ends with a line of totals.
pub fn test() -> Result<ExitCode> {
    Totals::of(|totals| run(totals, None))
}

/// The same, adding up what there is; of this router instead of the one that is built here, where one is
/// given.
pub fn run(totals: &mut Totals, router: Option<&Path>) -> Result<()> {
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
            command.args(router.map(|path| format!("SNI_ROUTER_BIN={}", path.display())));
            totals.count(command.arg(test))
        })
    })
}
