//! `completions` and `man`: what a package puts beside the program.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, print};

/// Print a completion script for a shell.
#[derive(clap::Args, Debug)]
pub struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

/// Write the manual pages, one for each command.
#[derive(clap::Args, Debug)]
pub struct ManArgs {
    /// Where to; made if need be
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Prints the script.
pub fn completions(args: &CompletionsArgs) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sni-router", &mut script);
    print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the pages.
pub fn man(args: &ManArgs) -> Result<ExitCode> {
    let written = |()| clap_mangen::generate_to(Cli::command(), &args.directory);
    let made: io::Result<()> = std::fs::create_dir_all(&args.directory);
    made.and_then(written)
        .with_context(|| format!("cannot write manual pages to {}", args.directory.display()))?;
    Ok(ExitCode::SUCCESS)
}
