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
            eprintln!("sni-router: {}", whole(&error));
            ExitCode::from(2)
        }
    }
}

/// An error with its causes, without those that it quotes itself.
fn whole(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text += ": ";
            text += &cause;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn cause_that_is_quoted_is_told_once() {
        let error = anyhow!("no such file").context("cannot read x: no such file (make it)");
        let error = error.context("cannot start");
        assert_eq!(
            whole(&error),
            "cannot start: cannot read x: no such file (make it)"
        );
    }
}
