//! `status`: what a running router is doing.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args as ClapArgs, ValueEnum};

use super::admin::Admin;
use super::columns::{bytes, time};
use super::print;
use crate::api::{Cluster, Status};

/// Show what a running router is doing: listeners, connections by datapath, and why better datapaths
/// were declined.
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    admin: Admin,

    /// As JSON, with everything there is
    #[arg(long)]
    json: bool,

    /// Only ask this, and fail where the answer is no: for the probes of a supervisor
    #[arg(long, conflicts_with = "json", value_name = "WHAT")]
    probe: Option<Probe>,
}

/// What a supervisor wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Probe {
    /// Does it answer?
    Healthz,
    /// Does it accept connections?
    Readyz,
}

/// Asks and prints.
pub fn run(args: &Args) -> Result<ExitCode> {
    if let Some(probe) = args.probe {
        let path = match probe {
            Probe::Healthz => "/healthz",
            Probe::Readyz => "/readyz",
        };
        let answer = args.admin.get_text(path)?;
        print(&String::from_utf8_lossy(&answer))?;
        return Ok(ExitCode::SUCCESS);
    }
    let status: Status = args.admin.get("/api/v1/status", &())?;
    match args.json {
        true => print(&format!("{}\n", serde_json::to_string_pretty(&status)?)),
        false => print(&text(&status)),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// For people.
fn text(status: &Status) -> String {
    let mut lines = vec![
        format!(
            "sni-router   {}, process {}, for {}",
            status.version,
            status.pid,
            time(status.uptime_seconds)
        ),
        format!("generation   {}", status.generation),
        format!("datapath     {}", status.datapath),
    ];
    if let Some(why) = &status.declined {
        lines.push(format!("             no better one: {why}"));
    }
    lines.push(format!(
        "connections  {} now, {} so far, {} up, {} down",
        status.connections,
        status.opened,
        bytes(status.bytes_up),
        bytes(status.bytes_down)
    ));
    lines.extend(counts(&status.carried));
    lines.push("declined".to_owned());
    lines.extend(counts(&status.declines));
    lines.push("closed".to_owned());
    lines.extend(counts(&status.closed));
    lines.extend(status.clusters.iter().map(cluster));
    lines.push("listeners".to_owned());
    for listener in &status.listeners {
        let draining = if listener.draining { ", draining" } else { "" };
        lines.push(format!(
            "  {:<24} {} port {}, {} routes, {} connections{draining}",
            listener.name,
            listener.vips.join(" "),
            listener.port,
            listener.routes,
            listener.active,
        ));
    }
    lines.join("\n") + "\n"
}

fn cluster(cluster: &Cluster) -> String {
    let state = match (cluster.stale_for_seconds, &cluster.why) {
        (None, _) => "up to date".to_owned(),
        (Some(age), Some(why)) => format!("not heard from for {age} s: {why}"),
        (Some(_), None) => "as it was before the start".to_owned(),
    };
    let role = if cluster.leader {
        ", writes status"
    } else {
        ""
    };
    let problems = match cluster.definition_problems.as_slice() {
        [] => String::new(),
        some => format!("\n    the definition of Listener {}", some.join("; ")),
    };
    format!("cluster {:<18} {state}{role}{problems}", cluster.name)
}

/// A line for each number that is not zero.
fn counts<N: Display + Default + PartialEq>(of: &BTreeMap<String, N>) -> Vec<String> {
    let some = of.iter().filter(|(_, count)| **count != N::default());
    some.map(|(name, count)| format!("  {name:<24} {count}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_shows_what_is_not_zero() {
        let status = json!({
            "version": "1.0", "generation": 3, "datapath": "tc", "declined": null, "connections": 5,
            "pid": 7, "uptime_seconds": 61.0, "opened": 9, "closed": {"done": 4}, "rejects": {}, "bytes_up": 1000,
            "bytes_down": 1, "kernel": null,
            "carried": {"tc": 4, "sockmap": 1, "userspace": 0},
            "declines": {"no_port": 1, "in_flight": 0},
            "clusters": [
                {"name": "east", "objects": {}, "stale_for_seconds": null, "why": null, "leader": true,
                 "definition_problems": ["is too old"]},
                {"name": "west", "objects": {}, "stale_for_seconds": 9, "why": "Secret: refused", "leader": false,
                 "definition_problems": []},
            ],
            "listeners": [{"name": "a/b", "vips": ["1.2.3.4"], "port": 443, "routes": 2,
                "opened": 9, "active": 5, "draining": true}],
        });
        let text = text(&serde_json::from_value(status).unwrap());
        let lines: Vec<_> = text.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "sni-router   1.0, process 7, for 1m 1s",
                "generation   3",
                "datapath     tc",
                "connections  5 now, 9 so far, 1.0 kB up, 1 B down",
                "  sockmap                  1",
                "  tc                       4",
                "declined",
                "  no_port                  1",
                "closed",
                "  done                     4",
                "cluster east               up to date, writes status",
                "    the definition of Listener is too old",
                "cluster west               not heard from for 9 s: Secret: refused",
                "listeners",
                "  a/b                      1.2.3.4 port 443, 2 routes, 5 connections, draining",
            ]
        );
    }
}
