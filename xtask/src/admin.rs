//! `test-admin`: the tests of the admin API that need programs of others.

use std::process::ExitCode;

use anyhow::Result;

use crate::command::{as_root, step, target_dir};
use crate::packages::{debian, pypi};
use crate::setup;
use crate::test::{ADMIN, build_integration, check_machine};
use crate::totals::Totals;

/// Runs them, as root, and ends with a line of totals.
pub fn test() -> Result<ExitCode> {
    Totals::of(run)
}

/// The same, adding up what there is.
pub fn run(totals: &mut Totals) -> Result<()> {
    setup::ensure()?;
    check_machine()?;
    let below = target_dir().join("admin");
    let (browser, fuzzer) = step("a browser and a fuzzer", || {
        let browser = debian(&below, "chromium", "usr/lib/chromium/chromium")?;
        // Its commands have their place in the virtual environment, beside the module.
        pypi(&below, "schemathesis", "schemathesis/__init__.py")?;
        Ok((browser, below.join("venv/bin/schemathesis")))
    })?;
    let tests = step("build the tests of the admin API", || {
        build_integration(|name| name == ADMIN)
    })?;
    step("tests of the admin API", || {
        let mut each = tests.iter();
        // Through env, since sudo may keep what it knows not.
        each.try_for_each(|test| {
            let mut command = as_root("env")?;
            command.arg(format!("SNI_ROUTER_BROWSER={}", browser.words().join(" ")));
            command.arg(format!("SNI_ROUTER_FUZZER={}", fuzzer.display()));
            totals.count(command.arg(test))
        })
    })
}
