//! `doctor`: what this host lacks, what it costs, and how to mend it.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args as ClapArgs;
use serde::Serialize;
use tokio::runtime::Builder;

use super::check::{Reading, count};
use super::print;
use super::run::{pin_dir, port_range};
use crate::datapath::bpf::Attach;
use crate::datapath::choose::{Choice, Open, TcPorts};
use crate::doctor::{Facts, Finding, Level, Report, Site, Wanted};

/// Check this host: what the router will lack here, what that costs, and how to mend it.
///
/// Takes the flags that `run` will have, and looks from where it is started: run it as the router
/// runs, in its container and network namespace. It changes nothing, loads the kernel programs
/// without attaching them, and works beside a running router. Findings are `ok`, `note` (nothing is
/// lost), `warning` (worse than it could be), `error` (what was asked for will not work), and `unknown`
/// (it takes rights that this process does not have). Commands after `mend` are for a root shell.
///
/// Exits with 0 where there is no error, 1 where there is one, 2 where the command line is wrong.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Directory of manifests, or one file: look at their VIPs and endpoints too
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,

    #[command(flatten)]
    reading: Reading,

    /// What shall carry connections. What keeps `tc` from working is an error with `tc`, and a warning
    /// with `auto`
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    datapath: Choice,

    /// Source ports towards endpoints
    #[arg(long, value_name = "FIRST-LAST", default_value = "10000-29999", value_parser = port_range)]
    tc_ports: RangeInclusive<u16>,

    /// Address that endpoints are connected to from (repeatable)
    #[arg(long, value_name = "IP")]
    tc_source: Vec<IpAddr>,

    /// The router will reserve --tc-ports itself
    #[arg(long)]
    reserve_ports: bool,

    /// Directory of a BPF file system; `none` for not at all [default: /sys/fs/bpf/sni-router, where
    /// that is one]
    #[arg(long, value_name = "DIR")]
    pin_dir: Option<PathBuf>,

    /// The router will claim VIPs that no interface has
    #[arg(long)]
    claim_vips: bool,

    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Looks, and prints what was found.
pub fn run(args: Args) -> Result<ExitCode> {
    let wanted = Wanted {
        datapath: args.datapath,
        ports: TcPorts {
            range: args.tc_ports,
            reserve: args.reserve_ports,
            sources: args.tc_source,
            open: Open::Sockets,
            attach: Attach::Auto,
            shortcuts: Vec::new(),
        },
        pins: pin_dir(args.pin_dir),
        claim_vips: args.claim_vips,
    };
    let site = args.manifests.map(|directory| {
        let build = args.reading.build(&directory);
        build
            .map(|build| Site::of(&build))
            .map_err(|error| format!("{error:#}"))
    });
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let report = Report::of(&runtime.block_on(Facts::gather(wanted, site)));
    print(&if args.json {
        as_json(&report)?
    } else {
        as_text(&report)
    })?;
    Ok(match report.count(Level::Error) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn as_text(report: &Report) -> String {
    let mut text = String::new();
    for checked in &report.checks {
        for finding in &checked.findings {
            describe(checked.name, finding, &mut text);
        }
    }
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{} ok, {} unknown, {}, {}, {}",
        report.count(Level::Ok),
        report.count(Level::Unknown),
        count(report.count(Level::Note), "note"),
        count(report.count(Level::Warning), "warning"),
        count(report.count(Level::Error), "error"),
    );
    if text.contains("  sysctl -w ") {
        text +=
            "What sysctl sets is gone after a reboot: put it into a file of /etc/sysctl.d too.\n";
    }
    text
}

/// A line, and what it costs and how to mend it below.
fn describe(name: &str, finding: &Finding, text: &mut String) {
    let _ = writeln!(text, "{:<8} {name:<17} {}", finding.level, finding.what);
    if let Some(costs) = &finding.costs {
        let _ = writeln!(text, "{INDENT}costs: {costs}");
    }
    let mut label = "mend:";
    for mend in [&finding.command, &finding.mend].into_iter().flatten() {
        let _ = writeln!(text, "{INDENT}{label:<6} {mend}");
        label = "";
    }
}

#[derive(Serialize)]
struct Summary<'r> {
    errors: usize,
    warnings: usize,
    notes: usize,
    unknown: usize,
    #[serde(flatten)]
    report: &'r Report,
}

fn as_json(report: &Report) -> Result<String> {
    let summary = Summary {
        errors: report.count(Level::Error),
        warnings: report.count(Level::Warning),
        notes: report.count(Level::Note),
        unknown: report.count(Level::Unknown),
        report,
    };
    Ok(serde_json::to_string_pretty(&summary)? + "\n")
}

/// Below the first letter of what was found.
const INDENT: &str = "                           ";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Checked;

    fn report() -> Report {
        let checked = |name, findings| Checked { name, findings };
        Report {
            checks: vec![
                checked("kernel", vec![Finding::ok("Linux 6.12")]),
                checked(
                    "rp-filter",
                    vec![
                        Finding::warning("strict on eth0")
                            .costs("clients are dropped")
                            .command("sysctl -w net.ipv4.conf.all.rp_filter=2")
                            .mend("or less"),
                    ],
                ),
                checked(
                    "jit",
                    vec![Finding::unknown("only root may").mend("as root")],
                ),
            ],
        }
    }

    #[test]
    fn text_has_a_line_a_finding_and_its_costs_and_remedy_below() {
        let text = as_text(&report());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "ok       kernel            Linux 6.12",
                "warning  rp-filter         strict on eth0",
                "                           costs: clients are dropped",
                "                           mend:  sysctl -w net.ipv4.conf.all.rp_filter=2",
                "                                  or less",
                "unknown  jit               only root may",
                "                           mend:  as root",
                "1 ok, 1 unknown, 0 notes, 1 warning, 0 errors",
                "What sysctl sets is gone after a reboot: put it into a file of /etc/sysctl.d too.",
            ]
        );
    }

    #[test]
    fn json_has_the_same_and_leaves_out_what_is_not_there() {
        let json: serde_json::Value = serde_json::from_str(&as_json(&report()).unwrap()).unwrap();
        assert_eq!(json["warnings"], 1);
        assert_eq!(json["unknown"], 1);
        let finding = &json["checks"][1]["findings"][0];
        assert_eq!(finding["level"], "warning");
        assert_eq!(
            finding["command"],
            "sysctl -w net.ipv4.conf.all.rp_filter=2"
        );
        assert!(json["checks"][0]["findings"][0].get("costs").is_none());
    }
}
