//! `drain`, `undrain`, `reload`, `log-level`: telling a running router something.

use std::process::ExitCode;

use anyhow::{Result, bail};
use axum::http::Method;

use super::admin::Admin;
use super::print;
use crate::api::{Config, Drain, Drained, LogLevel};

/// What to drain.
#[derive(clap::Args, Debug)]
pub struct DrainArgs {
    #[command(flatten)]
    admin: Admin,

    /// A Listener: new connections to it are reset
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        required_unless_present = "endpoint"
    )]
    listener: Option<String>,

    /// An endpoint, of whatever backend: new connections go to others
    #[arg(long, value_name = "IP:PORT", conflicts_with = "listener")]
    endpoint: Option<String>,
}

/// Read the manifests again, and wait for that. Nothing is lost if they are as before.
#[derive(clap::Args, Debug)]
pub struct ReloadArgs {
    #[command(flatten)]
    admin: Admin,
}

/// Change what is logged, until the next start.
#[derive(clap::Args, Debug)]
pub struct LogLevelArgs {
    #[command(flatten)]
    admin: Admin,

    /// As --log-level of `run` takes it: `info`, or `debug,access=off`
    #[arg(value_name = "FILTER")]
    filter: String,
}

/// Begins to drain, or ends that.
pub fn drain(args: &DrainArgs, begin: bool) -> Result<ExitCode> {
    let path = if begin {
        "/api/v1/drain"
    } else {
        "/api/v1/undrain"
    };
    let what = Drain {
        listener: args.listener.clone(),
        endpoint: args.endpoint.clone(),
    };
    let drained: Drained = args.admin.post(path, &what)?;
    let state = match (begin, drained.changed) {
        (true, true) => "draining",
        (true, false) => "was draining already",
        (false, true) => "gets new connections again",
        (false, false) => "was not draining",
    };
    print(&format!(
        "{state}; {} connections go on\n",
        drained.connections
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Has the manifests read.
pub fn reload(args: &ReloadArgs) -> Result<ExitCode> {
    args.admin.send(Method::POST, "/api/v1/reload", &())?;
    let config: Config = args.admin.get("/api/v1/config", &())?;
    match config.unread {
        None => Ok(ExitCode::SUCCESS),
        Some(why) => bail!("{why}; what was read last stays in force"),
    }
}

/// Changes the filter.
pub fn log_level(args: &LogLevelArgs) -> Result<ExitCode> {
    let filter = args.filter.clone();
    args.admin
        .send(Method::PUT, "/api/v1/log-level", &LogLevel { filter })?;
    Ok(ExitCode::SUCCESS)
}
