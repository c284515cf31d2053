//! `status`: what a running router is doing.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args as ClapArgs, ValueEnum};

use super::admin::Admin;
use super::columns::{bytes, time};
use super::print;
use crate::api::{Cluster, Program, SelfTest, Status, TestResult};

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
    lines.extend(status.self_tests.iter().map(self_test));
    if !status.programs.is_empty() {
        lines.push("programs".to_owned());
        lines.extend(status.programs.iter().map(program));
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
        let unbound = match &*listener.unbound {
            [] => String::new(),
            unbound => format!(", cannot listen on {}", unbound.join(" ")),
        };
        lines.push(format!(
            "  {:<24} {} port {}, {} routes, {} connections{draining}{unbound}",
            listener.name,
            listener.vips.join(" "),
            listener.port,
            listener.routes,
            listener.active,
        ));
    }
    lines.join("\n") + "\n"
}

fn self_test(found: &SelfTest) -> String {
    let result = match found.result {
        TestResult::Works => "works",
        TestResult::Fails => "fails",
        TestResult::NotTried => "not tried",
    };
    let why = found.why.as_ref().map(|why| format!(": {why}"));
    let why = why.unwrap_or_default();
    format!("  {:<24} {result}{why}", found.datapath)
}

fn program(program: &Program) -> String {
    let places = program.attached.iter();
    let places: Vec<_> = places.map(|it| format!("{} ({})", it.to, it.by)).collect();
    let places = match places.is_empty() {
        true => "not attached".to_owned(),
        false => format!("at {}", places.join(", ")),
    };
    let ran = match (program.runs, program.run_seconds) {
        (Some(runs), Some(seconds)) => {
            let each = seconds * 1e9 / runs.max(1) as f64;
            format!(", ran {runs} times, {each:.0} ns each")
        }
        _ => String::new(),
    };
    let Program { name, kind, id, .. } = program;
    format!("  {name:<24} {kind} {id}, {places}{ran}")
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
            "self_tests": [
                {"datapath": "tc", "result": "works", "why": null},
                {"datapath": "sockmap", "result": "not_tried", "why": "not asked for"},
            ],
            "programs": [
                {"name": "snir_lookup", "kind": "sk_lookup", "id": 5, "runs": null, "run_seconds": null,
                 "attached": [{"to": "the network namespace", "by": "netns"}]},
                {"name": "snir_tc_ether", "kind": "sched_cls", "id": 6, "runs": 4, "run_seconds": 0.000002,
                 "attached": [{"to": "eth0", "by": "tcx"}, {"to": "eth1", "by": "tcx"}]},
                {"name": "snir_tc_ip", "kind": "sched_cls", "id": 7, "runs": null, "run_seconds": null,
                 "attached": []},
            ],
            "carried": {"tc": 4, "sockmap": 1, "userspace": 0},
            "declines": {"no_port": 1, "in_flight": 0},
            "clusters": [
                {"name": "east", "objects": {}, "stale_for_seconds": null, "why": null, "leader": true,
                 "definition_problems": ["is too old"]},
                {"name": "west", "objects": {}, "stale_for_seconds": 9, "why": "Secret: refused", "leader": false,
                 "definition_problems": []},
            ],
            "listeners": [{"name": "a/b", "vips": ["1.2.3.4"], "port": 443, "routes": 2,
                "opened": 9, "active": 5, "draining": true, "unbound": ["1.2.3.4:443"]}],
        });
        let text = text(&serde_json::from_value(status).unwrap());
        let lines: Vec<_> = text.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "sni-router   1.0, process 7, for 1m 1s",
                "generation   3",
                "datapath     tc",
                "  tc                       works",
                "  sockmap                  not tried: not asked for",
                "programs",
                "  snir_lookup              sk_lookup 5, at the network namespace (netns)",
                "  snir_tc_ether            sched_cls 6, at eth0 (tcx), eth1 (tcx), ran 4 times, 500 ns each",
                "  snir_tc_ip               sched_cls 7, not attached",
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
                "  a/b                      1.2.3.4 port 443, 2 routes, 5 connections, draining, cannot listen on 1.2.3.4:443",
            ]
        );
    }
}
