//! sni-router: a TLS passthrough router. See README.md and ARCHITECTURE.md.

mod answers;
mod api;
mod app;
mod carry;
mod claim;
mod cli;
mod compact;
mod control;
mod counted;
mod datapath;
mod denied;
mod doctor;
mod ending;
mod limits;
mod listen;
mod measured;
mod meter;
mod monotonic;
mod observe;
mod orphans;
mod presence;
mod privileges;
mod proxy;
mod settings;
mod signals;
mod slab;
mod socket;
mod source;
mod supervisor;
mod sys;
mod takeover;
mod tcp_table;

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
