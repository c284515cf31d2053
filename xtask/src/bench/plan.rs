//! What is measured, in which order: rounds, in each all systems, in each all loads.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::load::{Load, Setting, Work};
use super::measure::{self, Bench, Outcome, Tools};
use super::peers::Program;
use super::place::Place;
use super::rows::{OURS, Rows};
use super::setting::Congestion;
use super::system::System;
use super::{Args, machine};
use crate::command::output;
use crate::control_plane::ASSETS;
use crate::lab::{check_stop, stop_flag};

/// What is to be measured, and with what.
pub struct Plan {
    systems: Vec<System>,
    /// Loads that a system carries from one start, each group from a new one.
    groups: Vec<Vec<Load>>,
    rounds: u32,
    time: Duration,
    generator: PathBuf,
    perf: Option<Program>,
    /// All there are; loads use the first ones, and changes of a configuration those behind them.
    hosts: Vec<String>,
    open_files: u64,
    /// The programs of a Kubernetes control plane, where they can be had.
    pub control_plane: Option<PathBuf>,
    /// Set when the user wants to stop.
    pub stop: Arc<AtomicBool>,
    /// What others used of the machine, each time it was looked at.
    noises: Vec<f64>,
}

impl Plan {
    /// What the flags ask for.
    pub fn new(
        args: &Args,
        systems: Vec<System>,
        loads: &[Load],
        perf: Option<Program>,
        generator: PathBuf,
    ) -> Result<Self> {
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
            groups: groups(loads),
            rounds: args.rounds.unwrap_or(rounds),
            time: Duration::from_secs_f64(seconds),
            generator,
            perf,
            hosts: hosts.lines().map(str::to_owned).collect(),
            open_files: machine::raise_open_files()?,
            control_plane: None,
            stop: stop_flag()?,
            noises: Vec::new(),
        })
    }

    /// Leaves out loads with a congestion control that the kernel does not have, and says so.
    pub fn leave_out(&mut self, congestion: &Congestion, missing: &mut Vec<String>) {
        self.groups.retain(|group| {
            let first = group[0];
            let lacking = first.congestion.filter(|name| !congestion.has(name));
            if let Some(name) = lacking {
                let line = format!("{} is left out: the kernel has no {name}", first.name);
                missing.push(line);
            }
            lacking.is_none()
        });
    }

    /// All rounds.
    pub fn run(&mut self, congestion: &Congestion, rows: &mut Rows) -> Result<()> {
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
                    self.run_group(system, &group, congestion, rows)?;
                }
            }
        }
        Ok(())
    }

    /// Starts a system and puts some loads on it. Fails when the user wants to stop or the lab
    /// cannot be removed; what goes wrong with the system is its rows' fault.
    fn run_group(
        &self,
        system: &System,
        group: &[Load],
        congestion: &Congestion,
        rows: &mut Rows,
    ) -> Result<()> {
        let loads: Vec<_> = group.iter().filter(|load| load.is_for(system)).collect();
        let Some(first) = loads.first() else {
            return Ok(());
        };
        check_stop(&self.stop)?;
        if first.work == Work::Cluster {
            for load in loads {
                if let Err(error) = self.follow_cluster(system, load, rows) {
                    check_stop(&self.stop)?;
                    rows.spoil(system, load, format!("{error:#}"));
                }
            }
            return Ok(());
        }
        let name = first.congestion.unwrap_or(congestion.used());
        let place = congestion.with(name, || {
            Place::build(&self.generator, name, first.is_tls, &self.stop)
        })?;
        let tools = Tools {
            generator: &self.generator,
            hosts: &self.hosts,
            open_files: self.open_files,
            time: self.time,
            perf: self.perf.as_ref(),
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
        for step in [put, count_apart] {
            for load in &loads {
                if let Err(error) = step(&mut bench, system, load, rows) {
                    check_stop(&self.stop)?;
                    rows.spoil(system, load, format!("{error:#}"));
                }
            }
        }
        let why = match bench.carried_otherwise() {
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

    /// Starts a router on a Kubernetes API and changes that; in a lab of the generator's own.
    fn follow_cluster(&self, system: &System, load: &Load, rows: &mut Rows) -> Result<()> {
        let assets = self.control_plane.as_ref().context("no control plane")?;
        let mut command = Command::new(&self.generator);
        command
            .env(ASSETS, assets)
            .env(
                "SNI_ROUTER_BIN",
                self.generator.with_file_name("sni-router"),
            )
            .arg("cluster")
            .args(load.arguments());
        command.args(["--datapath", system.datapath]);
        let report: Value = serde_json::from_str(&output(&mut command)?).context("its report")?;
        let results = load.results(&report)?;
        println!(
            "   {:28} {:>10.2} effect_ms",
            load.name, results["effect_ms"]
        );
        rows.add(system, load, &results);
        Ok(())
    }

    /// What somebody who compares numbers must know of the machine and of the run.
    pub fn machine(&self, congestion: &Congestion, missing: &[String]) -> Result<Value> {
        let mut machine = machine::describe(congestion, self.open_files)?;
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
fn put(bench: &mut Bench<'_>, system: &System, load: &Load, rows: &mut Rows) -> Result<()> {
    let outcome = bench.run(load)?;
    let (key, _) = load.headline();
    let result = outcome.results.get(key);
    let result = result.map_or_else(|| "–".to_owned(), |result| format!("{result:.2}"));
    println!("   {:28} {result:>10} {key}", load.name);
    rows.add(system, load, &outcome.results);
    note_errors(&outcome, system, load, rows);
    Ok(())
}

/// Notes what is counted apart from a load's own numbers.
fn count_apart(bench: &mut Bench<'_>, system: &System, load: &Load, rows: &mut Rows) -> Result<()> {
    if let Some(outcome) = bench.extra(load)? {
        for (key, result) in &outcome.results {
            println!("   {:28} {result:>10.2} {key}", load.name);
        }
        rows.add_extra(system, load, &outcome.results);
        note_errors(&outcome, system, load, rows);
    }
    Ok(())
}

fn note_errors(outcome: &Outcome, system: &System, load: &Load, rows: &mut Rows) {
    rows.add_errors(system, load, outcome.errors);
    let corrupt = outcome.report["corrupt"].as_u64().unwrap_or(0);
    // How many connections a reload costs is what is measured there.
    let is_result = load.setting == Setting::Reloaded && corrupt == 0;
    if outcome.errors > 0 && !is_result {
        rows.spoil(system, load, format!("errors: {}", outcome.report));
    }
}

/// Loads that may follow each other on a running system, together.
fn groups(loads: &[Load]) -> Vec<Vec<Load>> {
    let mut groups: Vec<Vec<Load>> = Vec::new();
    for load in loads {
        let fitting = groups.iter_mut().find(|group| {
            let first = group[0];
            first.hosts == load.hosts
                && first.congestion == load.congestion
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
    /// Whether it is put on a system.
    pub(super) fn is_for(&self, system: &System) -> bool {
        if self.work == Work::Cluster {
            // The others read no Kubernetes API; and it is not the datapath that makes the difference.
            return system.name == OURS && system.datapath == "tc";
        }
        if self.setting == Setting::Scraped {
            // Nobody else has a list of connections to ask for.
            return system.name == OURS;
        }
        let is_compared = COMPARED.contains(&system.name) || self.congestion.is_none();
        is_compared && (system.is_router() || self.is_without_router())
    }

    /// Whether it says something where there is no router: nobody has hosts, a configuration or
    /// connections of its own.
    fn is_without_router(&self) -> bool {
        self.work != Work::Idle && self.setting == Setting::Used && self.hosts <= 10
    }
}

/// From here on the machine is too busy with other things for its numbers to mean much.
const LOUD: f64 = 0.05;

/// Another congestion control is a matter of client and endpoint: to show what it makes of numbers,
/// a few systems are enough.
const COMPARED: [&str; 3] = ["forward", OURS, "haproxy"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_fresh_loads_and_numbers_of_hosts_apart() {
        let loads = Load::select(&[], false).unwrap();
        let groups = groups(&loads);
        let sizes: Vec<_> = groups.iter().map(Vec::len).collect();
        assert_eq!(sizes, [22, 2, 1, 1, 1, 1, 1, 1]);
        assert_eq!(groups.concat().len(), loads.len());
    }
}
