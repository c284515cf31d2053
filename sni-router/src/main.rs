//! sni-router: a TLS passthrough router. See README.md and ARCHITECTURE.md.

mod app;
mod carry;
mod claim;
mod cli;
mod control;
mod counted;
mod datapath;
mod limits;
mod listen;
mod observe;
mod orphans;
mod proxy;
mod signals;
mod source;
mod sys;
mod takeover;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sni-router: {error:#}");
            ExitCode::from(2)
        }
    }
}
