//! `trace`: following single connections through a running router, live.

use std::process::ExitCode;

use anyhow::Result;

use super::admin::Admin;
use super::print;
use crate::api::{Step, TraceQuery};

/// Follow connections live through accept, hello, route, connect, datapath and end, until interrupted.
///
/// Shows every connection, unless told which. Those that were there before are shown when they go on.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    admin: Admin,

    /// Only those with this server name, or one below it: `*.example.com`
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    /// Only those of this client: an address, a network, or an address with its port
    #[arg(long, value_name = "ADDR")]
    client: Option<String>,

    /// As JSON, a step a line
    #[arg(long)]
    json: bool,
}

/// Prints steps as they come.
pub fn run(args: &Args) -> Result<ExitCode> {
    let query = TraceQuery {
        host: args.host.clone(),
        client: args.client.clone(),
    };
    args.admin.follow("/api/v1/trace", &query, |line| {
        if args.json {
            return print(&format!("{line}\n"));
        }
        let step: Step = serde_json::from_str(line)?;
        print(&text(&step))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn text(step: &Step) -> String {
    let host = step.host.as_deref().unwrap_or("-");
    format!(
        "{} {:>6} {} {host} {}: {}\n",
        step.at, step.id, step.client, step.phase, step.detail
    )
}
