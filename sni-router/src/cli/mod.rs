//! The command line: one file a subcommand.

mod certificates;
mod check;
mod crd;
mod detach;
mod explain;
mod kubernetes;
mod run;
mod status;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// A TLS passthrough router: reads the server name, lets the kernel move the bytes.
#[derive(Parser, Debug)]
#[command(name = "sni-router", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Run(Box<run::Args>),
    Check(check::Args),
    Explain(explain::Args),
    Crd(crd::Args),
    Detach(detach::Args),
    Status(status::Args),
}

/// Where systemd mounts a BPF file system, and a folder of ours in it.
const PIN_DIR: &str = "/sys/fs/bpf/sni-router";

impl Cli {
    /// Does what was asked.
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Run(args) => run::run(*args),
            Command::Check(args) => check::run(args),
            Command::Explain(args) => explain::run(args),
            Command::Crd(args) => crd::run(args),
            Command::Detach(args) => detach::run(args),
            Command::Status(args) => status::run(args),
        }
    }
}
