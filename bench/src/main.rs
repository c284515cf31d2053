//! Both ends of a benchmark in one small program: `serve` is the endpoint behind the router,
//! `load` the client in front of it. What the client wants of the endpoint travels in its hello
//! ([`order`]), so neither has to be told anything else.
//!
//! `cluster` measures something else: a router that reads a Kubernetes API.
//!
//! Their own cost must not hide the router's: one thread each, pinned to a CPU, one epoll, few
//! system calls, buffers that stay in the cache. Every byte is checked at the other end
//! ([`pattern`]). With `--tls` all of it, the order included, is in TLS ([`channel`]).

mod channel;
mod cluster;
mod load;
mod measure;
mod order;
mod pattern;
mod poll;
mod serve;
mod tls;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

/// The load generator and the endpoint of `cargo xtask bench`.
#[derive(Parser)]
struct Cli {
    /// The CPU to run on; without it, any
    #[arg(long, global = true, value_name = "N")]
    cpu: Option<usize>,

    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Serve whatever the clients' hellos ask for
    Serve(serve::Args),
    /// Load what listens at an address, and print what was measured as one line of JSON
    Load(load::Args),
    /// Start a router on a Kubernetes API, and print how soon it serves and follows
    Cluster(cluster::Args),
    /// Print the names of hosts, as clients use them, a line each
    Hosts {
        /// How many
        count: u64,
    },
    /// Make a certificate for all hosts, for the `--tls` of both ends
    Certificate {
        /// Where it goes
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    run(Cli::parse()).map_or_else(
        |error| {
            eprintln!("sni-router-bench: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn run(cli: Cli) -> Result<()> {
    if let Some(cpu) = cli.cpu {
        pin(cpu).with_context(|| format!("cannot run on CPU {cpu}"))?;
    }
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")?;
    match cli.role {
        Role::Serve(args) => serve::serve(&args),
        Role::Load(args) => load::load(&args),
        Role::Cluster(args) => cluster::cluster(&args),
        Role::Hosts { count } => {
            (0..count).for_each(|number| println!("{}", order::host(number)));
            Ok(())
        }
        Role::Certificate { dir } => tls::write_certificate(&dir),
    }
}

/// Unpinned, two runs of the same thing differ by a factor of two.
fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    anyhow::ensure!(cpu < CpuSet::MAX_CPU, "there is no such CPU");
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}
