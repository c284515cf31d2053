//! `cargo xtask VERB`: everything a developer does with sni-router.
//!
//! Every verb sets up what is missing first, so any of them works on a fresh machine. Builds run
//! as the user who asks; only finished programs that need root are started through `sudo -E`.

mod admin;
mod bench;
mod ci;
mod cluster;
mod command;
mod control_plane;
mod demo;
mod dist;
mod kernel;
mod lab;
mod lint;
mod packages;
mod run;
mod setup;
mod test;
mod toolchain;
mod totals;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Everything a developer does with sni-router.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what is missing to build, test and demonstrate; says so when nothing is
    Setup,
    /// Build the release binary, kernel programs included
    Build,
    /// Build, then run `sni-router run ARGS` as root
    Run {
        /// What follows `sni-router run`, as `--manifests examples/passthrough --claim-vips`
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "ARGS"
        )]
        args: Vec<std::ffi::OsString>,
    },
    /// Show the router working, with real clients and servers in network namespaces
    Demo(demo::Args),
    /// Measure it against plain forwarding and against other routers; docs/benchmarks.md
    Bench(bench::Args),
    /// Run every test: unit and property tests as you, integration tests as root
    Test,
    /// Run the tests against a real Kubernetes API server; the first time, builds one with Go
    TestCluster,
    /// Run tests under another kernel, in a virtual machine; without KVM that takes ten minutes
    TestKernel(kernel::Args),
    /// Test the admin API with programs of others: a browser, and a fuzzer that reads its description
    TestAdmin,
    /// Formatting, clippy for host and BPF, documentation, layers
    Lint,
    /// Build the static binary and an archive of it for a release, reproducibly
    Dist(dist::Args),
    /// What CI runs: setup, lint, test, test-admin, test-cluster
    Ci,
}

fn main() -> ExitCode {
    // One line, the causes in it; a backtrace would only show xtask.
    run(Cli::parse().verb).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Setup => {
            setup::setup()?;
            setup::promtool()?;
        }
        Verb::Build => run::build()?,
        Verb::Run { args } => run::run(&args)?,
        Verb::Demo(args) => return demo::demo(&args),
        Verb::Bench(args) => return bench::bench(&args),
        Verb::Test => return test::test(),
        Verb::TestAdmin => return admin::test(),
        Verb::TestKernel(args) => return kernel::test(&args),
        Verb::TestCluster => return cluster::test(),
        Verb::Dist(args) => return dist::dist(&args),
        Verb::Lint => lint::lint()?,
        Verb::Ci => return ci::ci(),
    }
    Ok(ExitCode::SUCCESS)
}
