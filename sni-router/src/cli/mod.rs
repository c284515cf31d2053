//! The command line: one file a subcommand.

mod admin;
mod certificates;
mod check;
mod columns;
mod connections;
mod crd;
mod detach;
mod doctor;
mod explain;
mod generate;
mod kubernetes;
mod lists;
mod run;
mod status;
mod steer;
mod top;
mod trace;

use std::borrow::Cow;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// A TLS passthrough router: reads the server name, lets the kernel move the bytes.
///
/// Exit codes: 0 where it is done, or the answer is yes; 1 where the answer is no; 2 where something
/// failed, or the command line cannot be read.
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
    Doctor(doctor::Args),
    Status(status::Args),
    Connections(connections::Args),
    Close(connections::CloseArgs),
    /// List the Listeners that a running router serves
    Listeners(lists::Args),
    /// List the host patterns of a running router, in the order of its Listeners
    Routes(lists::Args),
    /// List the Services that a running router's routes lead to, with their endpoints
    Backends(lists::Args),
    /// List what is wrong in the configuration that a running router has in force. Exits with 1 where there
    /// is an error
    Problems(lists::Args),
    /// Send no new connections to a Listener or an endpoint; those there are go on. Forgotten at the next
    /// start
    Drain(steer::DrainArgs),
    /// Send new connections there again
    Undrain(steer::DrainArgs),
    Top(top::Args),
    Trace(trace::Args),
    Reload(steer::ReloadArgs),
    LogLevel(steer::LogLevelArgs),
    Completions(generate::CompletionsArgs),
    Man(generate::ManArgs),
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
            Command::Doctor(args) => doctor::run(args),
            Command::Status(args) => status::run(&args),
            Command::Connections(args) => connections::run(&args),
            Command::Close(args) => connections::close(&args),
            Command::Listeners(args) => lists::listeners(&args),
            Command::Routes(args) => lists::routes(&args),
            Command::Backends(args) => lists::backends(&args),
            Command::Problems(args) => lists::problems(&args),
            Command::Drain(args) => steer::drain(&args, true),
            Command::Undrain(args) => steer::drain(&args, false),
            Command::Top(args) => top::run(&args),
            Command::Trace(args) => trace::run(&args),
            Command::Reload(args) => steer::reload(&args),
            Command::LogLevel(args) => steer::log_level(&args),
            Command::Completions(args) => generate::completions(&args),
            Command::Man(args) => generate::man(&args),
        }
    }
}

/// Prints to standard output. That a reader like `head` has gone is no error.
fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(harmless(text).as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Begins a screen anew, if it is one (ECMA-48): to the first line, and clears what follows.
fn clear() -> Result<()> {
    Ok(io::stdout().write_all(b"\x1b[H\x1b[J")?)
}

/// Names of files and what manifests say may be anybody's: nothing in them is to steer a terminal. As JSON writes it,
/// since the text may be that.
fn harmless(text: &str) -> Cow<'_, str> {
    let is_harmful = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(is_harmful) {
        return text.into();
    }
    let shown = text.chars().fold(String::new(), |mut shown, c| {
        match is_harmful(c) {
            true => shown.extend(format!("\\u{:04x}", u32::from(c)).chars()),
            false => shown.push(c),
        }
        shown
    });
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_printed_steers_a_terminal() {
        assert_eq!(harmless("a\tb: ü\n"), "a\tb: ü\n");
        assert_eq!(
            harmless("\u{1b}]0;x\u{7}\r\u{7f}\u{9b}2J"),
            r"\u001b]0;x\u0007\u000d\u007f\u009b2J"
        );
        let json = serde_json::to_string("\u{1b}\u{9b}").unwrap();
        let read: String = serde_json::from_str(&harmless(&json)).unwrap();
        assert_eq!(read, "\u{1b}\u{9b}");
    }
}
