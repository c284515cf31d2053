//! `bench`: what sni-router costs, next to what its users would pick instead.
//!
//! One system at a time runs in the router's namespace of a lab ([`place`]), the generator of
//! `bench/` puts the same loads on each ([`load`]), and all of it is repeated in rounds, so that a
//! machine that changes its mind disturbs all systems alike. `docs/benchmarks.md` says how to read
//! what comes of it.

mod chart;
mod config;
mod load;
mod machine;
mod measure;
mod peers;
mod place;
mod rows;
mod system;
mod table;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;
use serde_json::{Value, json};

use self::load::{Load, Setting, Work};
use self::machine::Congestion;
use self::measure::{Bench, Tools};
use self::place::Place;
use self::rows::Rows;
use self::system::System;
use crate::command::{self, as_root, cargo, is_root, output, target_dir};
use crate::lab::{self, Kind, check_stop, stop_flag};
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

    /// Where the programs are that are measured; they are not built then
    #[arg(long, value_name = "DIR", hide = true)]
    binaries: Option<PathBuf>,
}

/// Builds and downloads as the user, then measures as root.
pub fn bench(args: &Args) -> Result<ExitCode> {
    as_root("true")?;
    if args.binaries.is_none() {
        run::build()?;
        let build = ["build", "--release", "--package", "sni-router-bench"];
        command::run(cargo().args(build))?;
    }
    let binaries = args.binaries.clone();
    let binaries = binaries.unwrap_or_else(|| target_dir().join("release"));
    let (systems, missing) = System::select(&args.systems, &binaries.join("sni-router"))?;
    if !is_root() {
        let mut command = as_root(env::current_exe()?)?;
        command.args(env::args_os().skip(1));
        if args.binaries.is_none() {
            command.arg("--binaries").arg(&binaries);
        }
        run::become_command(&mut command)?;
    }
    missing.iter().for_each(|line| println!("bench: {line}"));
    let baseline = args.baseline.as_deref().map(read_json).transpose()?;
    let mut plan = Plan::new(args, systems, binaries.join("sni-router-bench"))?;

    let mut rows = Rows::default();
    let begin = Instant::now();
    let (machine, measured) = {
        let congestion = Congestion::set(&args.congestion, &plan.stop)?;
        // Nobody else measures now, so what there is was left behind.
        lab::remove_all(Kind::Bench)?;
        let measured = plan.run(&mut rows);
        (plan.machine(&congestion, &missing), measured)
    };
    measured?;
    let mut machine = machine?;
    machine["took_s"] = json!(begin.elapsed().as_secs());
    let results = json!({ "machine": machine, "rows": rows.json() });
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

/// What is to be measured, and with what.
struct Plan {
    systems: Vec<System>,
    /// Loads that a system carries from one start, each group from a new one.
    groups: Vec<Vec<Load>>,
    rounds: u32,
    time: Duration,
    congestion: String,
    generator: PathBuf,
    /// All there are; loads use the first ones, and changes of a configuration those behind them.
    hosts: Vec<String>,
    open_files: u64,
    stop: Arc<AtomicBool>,
    /// What others used of the machine, each time it was looked at.
    noises: Vec<f64>,
}

impl Plan {
    fn new(args: &Args, systems: Vec<System>, generator: PathBuf) -> Result<Self> {
        let loads = Load::select(&args.loads, args.quick)?;
        if systems.is_empty() {
            bail!("none of the systems is here");
        }
        let most = loads.iter().map(|load| load.hosts).max().unwrap_or(1);
        let mut command = Command::new(&generator);
        let count = most + measure::EXTRA_HOSTS as u64;
        let hosts = output(command.args(["hosts", &count.to_string()]))?;
        let (rounds, seconds) = if args.quick { (1, 2.0) } else { (3, 4.0) };
        let seconds = args.seconds.unwrap_or(seconds);
        if !(0.1..=3600.0).contains(&seconds) {
            bail!("--seconds is between 0.1 and 3600");
        }
        Ok(Self {
            systems,
            groups: groups(&loads),
            rounds: args.rounds.unwrap_or(rounds),
            time: Duration::from_secs_f64(seconds),
            congestion: args.congestion.clone(),
            generator,
            hosts: hosts.lines().map(str::to_owned).collect(),
            open_files: machine::raise_open_files()?,
            stop: stop_flag()?,
            noises: Vec::new(),
        })
    }

    /// All rounds.
    fn run(&mut self, rows: &mut Rows) -> Result<()> {
        let systems = self.systems.clone();
        for round in 0..self.rounds {
            // Another one is the first each time.
            let first = round as usize % systems.len();
            for system in systems[first..].iter().chain(&systems[..first]) {
                println!(
                    "== round {} of {}: {}",
                    round + 1,
                    self.rounds,
                    system.key()
                );
                let noise = machine::noise()?;
                if noise > LOUD {
                    println!("   others use {:.0} % of this machine", noise * 100.0);
                }
                self.noises.push(noise);
                for group in self.groups.clone() {
                    self.run_group(system, &group, rows)?;
                }
            }
        }
        Ok(())
    }

    /// Starts a system and puts some loads on it. Fails when the user wants to stop or the lab
    /// cannot be removed; what goes wrong with the system is its rows' fault.
    fn run_group(&self, system: &System, group: &[Load], rows: &mut Rows) -> Result<()> {
        let fits = |load: &&Load| system.is_router() || load.is_for_forwarding();
        let loads: Vec<_> = group.iter().filter(fits).collect();
        let Some(first) = loads.first() else {
            return Ok(());
        };
        check_stop(&self.stop)?;
        let place = Place::build(&self.generator, &self.congestion, &self.stop)?;
        let tools = Tools {
            generator: &self.generator,
            hosts: &self.hosts,
            open_files: self.open_files,
            time: self.time,
        };
        let count = usize::try_from(first.hosts)?;
        let started = Bench::start(place, system, tools, count);
        let mut bench = match started {
            Ok(bench) => bench,
            Err(error) => {
                check_stop(&self.stop)?;
                let spoil = |load: &&Load| rows.spoil(system, load, format!("{error:#}"));
                loads.iter().for_each(spoil);
                return Ok(());
            }
        };
        for load in &loads {
            if let Err(error) = measure(&mut bench, system, load, rows) {
                check_stop(&self.stop)?;
                rows.spoil(system, load, format!("{error:#}"));
            }
        }
        let why = match bench.carried_otherwise() {
            // Connections that clients end before they are carried are left to another datapath:
            // those that were under way when a load ended.
            Ok(share) if share < 0.01 => None,
            Ok(share) => Some(format!("{:.1} % were carried otherwise", share * 100.0)),
            Err(error) => Some(format!("its metrics: {error:#}")),
        };
        if let Some(why) = why {
            let spoil = |load: &&Load| rows.spoil(system, load, why.clone());
            loads.iter().for_each(spoil);
        }
        bench.place.lab.remove()
    }

    fn machine(&self, congestion: &Congestion, missing: &[String]) -> Result<Value> {
        let mut machine = machine::describe(congestion, &self.congestion, self.open_files)?;
        let most = self.noises.iter().copied().fold(0.0, f64::max);
        let mean = self.noises.iter().sum::<f64>() / self.noises.len().max(1) as f64;
        machine["others_cpu_share"] = json!({ "mean": mean, "most": most });
        machine["rounds"] = json!(self.rounds);
        machine["seconds"] = json!(self.time.as_secs_f64());
        machine["left_out"] = json!(missing);
        Ok(machine)
    }
}

/// Puts one load on a system and notes what came of it.
fn measure(bench: &mut Bench<'_>, system: &System, load: &Load, rows: &mut Rows) -> Result<()> {
    let outcome = bench.run(load)?;
    let (key, _) = load.headline();
    let result = outcome.results.get(key);
    let result = result.map_or_else(|| "–".to_owned(), |result| format!("{result:.2}"));
    println!("   {:28} {result:>10} {key}", load.name);
    rows.add(system, load, &outcome.results);
    rows.add_errors(system, load, outcome.errors);
    let corrupt = outcome.report["corrupt"].as_u64().unwrap_or(0);
    // How many connections a reload costs is what is measured there.
    let is_result = load.setting == Setting::Reloaded && corrupt == 0;
    if outcome.errors > 0 && !is_result {
        rows.spoil(system, load, format!("errors: {}", outcome.report));
    }
    Ok(())
}

/// Loads that may follow each other on a running system, together.
fn groups(loads: &[Load]) -> Vec<Vec<Load>> {
    let mut groups: Vec<Vec<Load>> = Vec::new();
    for load in loads {
        let fitting = groups.iter_mut().find(|group| {
            let first = group[0];
            first.hosts == load.hosts
                && first.setting != Setting::Fresh
                && load.setting != Setting::Fresh
        });
        match fitting {
            Some(group) => group.push(*load),
            None => groups.push(vec![*load]),
        }
    }
    groups
}

impl Load {
    /// Whether it says something of a kernel that only forwards: it has no hosts, no configuration
    /// and no connections of its own.
    fn is_for_forwarding(&self) -> bool {
        self.work != Work::Idle && self.setting == Setting::Used && self.hosts <= 10
    }
}

/// From here on the machine is too busy with other things for its numbers to mean much.
const LOUD: f64 = 0.05;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_fresh_loads_and_numbers_of_hosts_apart() {
        let loads = Load::select(&[], false).unwrap();
        let groups = groups(&loads);
        let sizes: Vec<_> = groups.iter().map(Vec::len).collect();
        assert_eq!(sizes, [14, 2, 1, 1]);
        assert_eq!(groups.concat().len(), loads.len());
    }
}
