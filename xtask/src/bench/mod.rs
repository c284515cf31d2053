//! `bench`: what sni-router costs, next to what its users would pick instead.
//!
//! One system at a time runs in the router's namespace of a lab ([`place`]), the generator of
//! `bench/` puts the same loads on each ([`load`]), and all of it is repeated in rounds, so that a
//! machine that changes its mind disturbs all systems alike. `docs/benchmarks.md` says how to read
//! what comes of it.

mod chart;
mod config;
mod extra;
mod load;
mod machine;
mod measure;
mod occupied;
mod peers;
mod place;
mod plan;
mod rows;
mod scraped;
mod setting;
mod system;
mod table;
mod together;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Args as ClapArgs;
use serde_json::{Value, json};

use self::load::{Load, Work};
use self::plan::Plan;
use self::rows::Rows;
use self::setting::Congestion;
use self::system::System;
use self::together::Together;
use crate::command::{self, as_root, cargo, is_root, target_dir};
use crate::control_plane;
use crate::lab::{self, Kind};
use crate::run;

/// What `bench` takes.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// One round of the loads that matter most, in less than five minutes
    #[arg(long)]
    quick: bool,

    /// Only these systems, as `haproxy` or `sni-router/sockmap`
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    systems: Vec<String>,

    /// Only these loads, as `down-4`
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    loads: Vec<String>,

    /// How often all is repeated [default: 3, with --quick 1]
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,

    /// How long each load is measured [default: 4, with --quick 2]
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,

    /// Where to write the results to
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Earlier results to print the difference against
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,

    /// Where the table and the charts go [default: target/bench/report]
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,

    /// The congestion control of all namespaces
    #[arg(long, value_name = "NAME", default_value = "cubic")]
    congestion: String,

    /// Client and endpoint speak TLS, instead of raw bytes behind a hello
    #[arg(long)]
    tls: bool,

    /// Where the programs are that are measured; they are not built then
    #[arg(long, value_name = "DIR", hide = true)]
    binaries: Option<PathBuf>,
}

/// Builds and downloads as the user, then measures as root.
pub fn bench(args: &Args) -> Result<ExitCode> {
    as_root("true")?;
    let mut loads = Load::select(&args.loads, args.quick)?;
    let count = loads.len();
    if args.tls {
        // What is in TLS has to be read.
        loads.retain(|load| !load.is_sampled);
        ensure!(
            !loads.is_empty(),
            "--tls goes with none of these loads: nothing is read of most of what they move"
        );
        loads.iter_mut().for_each(|load| load.is_tls = true);
    }
    let is_fewer = loads.len() < count;
    if args.binaries.is_none() {
        run::build()?;
        let build = ["build", "--release", "--package", "sni-router-bench"];
        command::run(cargo().args(build))?;
    }
    let binaries = args.binaries.clone();
    let binaries = binaries.unwrap_or_else(|| target_dir().join("release"));
    let (systems, mut missing) = System::select(&args.systems, &binaries.join("sni-router"))?;
    if is_fewer {
        missing.push("sampled loads are left out: in TLS, all is read".to_owned());
    }
    let control_plane = find_control_plane(&mut loads, &systems);
    let perf = extra::find(&loads, &systems);
    if !is_root() {
        let mut command = as_root(env::current_exe()?)?;
        command.args(env::args_os().skip(1));
        if args.binaries.is_none() {
            command.arg("--binaries").arg(&binaries);
        }
        run::become_command(&mut command)?;
    }
    let perf = extra::check(perf, &loads, &systems, &mut missing);
    let baseline = args.baseline.as_deref().map(read_json).transpose()?;
    let generator = binaries.join("sni-router-bench");
    let mut plan = Plan::new(args, systems, &loads, perf, generator)?;
    match control_plane {
        Ok(assets) => plan.control_plane = assets,
        Err(line) => missing.push(line),
    }

    let mut rows = Rows::default();
    let begin = Instant::now();
    let (machine, measured) = {
        let congestion = Congestion::set(&args.congestion, &plan.stop)?;
        // Nobody else measures now, so what there is was left behind.
        lab::remove_all(Kind::Bench)?;
        plan.leave_out(&congestion, &mut missing);
        missing.iter().for_each(|line| println!("bench: {line}"));
        let measured = plan.run(&congestion, &mut rows);
        (plan.machine(&congestion, &missing), measured)
    };
    measured?;
    let mut machine = machine?;
    machine["took_s"] = json!(begin.elapsed().as_secs());
    let together = |is_sampled| -> Vec<_> {
        let all = Together::of(&rows, is_sampled);
        all.iter().map(Together::json).collect()
    };
    let results = json!({
        "machine": machine,
        "rows": rows.json(),
        "long_streams": together(false),
        "sampled_streams": together(true),
    });
    write(args, &rows, &results)?;
    if let Some(baseline) = &baseline {
        println!("{}", table::difference(&rows, baseline));
    }
    for wrong in rows.wrongs() {
        println!("INVALID: {wrong}");
    }
    Ok(match rows.are_valid() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The programs that some loads need, built if need be. Where there are none those loads are left out,
/// and a line says so.
fn find_control_plane(
    loads: &mut Vec<Load>,
    systems: &[System],
) -> Result<Option<PathBuf>, String> {
    let is_put = |load: &Load| systems.iter().any(|system| load.is_for(system));
    let needs_it = |load: &Load| load.work == Work::Cluster && is_put(load);
    if !loads.iter().any(needs_it) {
        return Ok(None);
    }
    control_plane::assets().map(Some).map_err(|error| {
        loads.retain(|load| !needs_it(load));
        format!("loads with a Kubernetes API are left out: {error:#}")
    })
}

/// Writes results and report, and prints the table.
fn write(args: &Args, rows: &Rows, results: &Value) -> Result<()> {
    let report = args.report.clone();
    let report = report.unwrap_or_else(|| peers::bench_dir().join("report"));
    fs::create_dir_all(&report)?;
    let text = serde_json::to_string_pretty(results)? + "\n";
    fs::write(report.join("results.json"), &text)?;
    if let Some(path) = &args.json {
        fs::write(path, &text).with_context(|| path.display().to_string())?;
    }
    let table = table::markdown(rows);
    fs::write(report.join("results.md"), &table)?;
    chart::draw_all(rows, &report)?;
    println!("\n{table}bench: written to {}", report.display());
    Ok(())
}

fn read_json(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| format!("{}: not results", path.display()))
}
