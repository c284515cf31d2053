//! One load on one running system.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::config::Site;
use super::load::{Load, Setting, Work};
use super::occupied::Occupied;
use super::peers::Program;
use super::place::Place;
use super::rows::OURS;
use super::system::{self, System};
use crate::command::line;
use crate::lab::CLIENT;

/// A system that runs, and what measures it.
pub struct Bench<'a> {
    /// Where it runs.
    pub place: Place,
    system: &'a System,
    pub(super) tools: Tools<'a>,
    /// How many hosts it routes.
    hosts: usize,
    first_process: Option<u32>,
    /// How often its configuration has changed.
    revision: usize,
    /// How many connections may have been under way when loads ended.
    cut_off: u64,
}

/// What it takes to measure.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// The program of `bench/`.
    pub generator: &'a Path,
    /// More names than any system routes, by [`EXTRA_HOSTS`].
    pub hosts: &'a [String],
    /// How many files a process may open.
    pub open_files: u64,
    /// How long is measured.
    pub time: Duration,
    /// What counts system calls, where that can be done.
    pub perf: Option<&'a Program>,
}

/// What came of it.
pub struct Outcome {
    /// Numbers by their names.
    pub results: BTreeMap<String, f64>,
    /// Connections that failed, or bytes that were wrong.
    pub errors: u64,
    /// What went wrong, in the generator's words.
    pub report: Value,
}

impl<'a> Bench<'a> {
    /// Starts a system in a place and waits until it routes.
    pub fn start(place: Place, system: &'a System, tools: Tools<'a>, hosts: usize) -> Result<Self> {
        let mut this = Self {
            place,
            system,
            tools,
            hosts,
            first_process: None,
            revision: 0,
            cut_off: 0,
        };
        let site = this.site();
        this.first_process = system.start(&mut this.place, site, tools.open_files)?;
        // Two hosts, so that both endpoints are reached.
        this.wait_until_it_routes(0, 2)?;
        Ok(this)
    }

    /// Puts a load on it.
    pub fn run(&mut self, load: &Load) -> Result<Outcome> {
        self.place.lab.check_stop()?;
        let outcome = match load.work {
            Work::Idle => self.idle(load)?,
            _ if load.setting == Setting::Scraped => self.scraped(load)?,
            _ => self.timed(load)?,
        };
        // Nobody may have died over it.
        self.place.lab.wait_until("its programs run", || true)?;
        Ok(outcome)
    }

    /// Whether it has a process: where there is no router, there is none.
    pub fn has_process(&self) -> bool {
        self.first_process.is_some()
    }

    /// Whether packets are what it passes on.
    pub fn is_tc(&self) -> bool {
        self.system.carrier() == "tc"
    }

    /// The part of the connections that were carried otherwise than asked for; only sni-router
    /// tells. Connections that clients end before they are carried are left to another datapath:
    /// those that were under way when a load ended are not counted.
    pub fn carried_otherwise(&self) -> Result<f64> {
        if self.system.name != OURS {
            return Ok(0.0);
        }
        let (others, all) = system::carried(&self.place.lab, self.system.carrier())?;
        Ok(others.saturating_sub(self.cut_off) as f64 / all.max(1) as f64)
    }

    pub(super) fn timed(&mut self, load: &Load) -> Result<Outcome> {
        let mut next_reload = Instant::now() + RELOAD;
        let before = self.revision;
        let mut command = self.generate(load, self.tools.time / 4, self.tools.time);
        let mut outcome = self.watch(load, &mut command, |this| {
            if load.setting == Setting::Reloaded && Instant::now() >= next_reload {
                next_reload += RELOAD;
                this.reload()?;
            }
            Ok(())
        })?;
        if load.setting == Setting::Reloaded {
            let reloads = (self.revision - before) as f64;
            outcome.results.insert("reloads".to_owned(), reloads);
            self.wait_until_it_routes(self.extra_host(), 1)
                .context("it has not taken its last configuration")?;
        }
        Ok(outcome)
    }

    /// Runs a generator to its end, and what is to be done meanwhile.
    pub(super) fn watch(
        &mut self,
        load: &Load,
        command: &mut Command,
        mut meanwhile: impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<Outcome> {
        if matches!(load.work, Work::Connect | Work::Reset) {
            self.cut_off += load.streams;
        }
        let mut child = start(command)?;
        while child.try_wait()?.is_none() {
            if self.place.lab.check_stop().is_err() {
                child.kill()?;
            }
            meanwhile(self)?;
            std::thread::sleep(Duration::from_millis(10));
        }
        self.place.lab.check_stop()?;
        let output = child.wait_with_output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "the generator: {}",
            stderr.trim_end()
        );
        let report: Value = serde_json::from_slice(&output.stdout).context("its report")?;
        Outcome::of(load, report)
    }

    /// Opens connections, and looks at what they occupy while they do nothing.
    ///
    /// Compared with a part of them, not with none: allocators give back what the start has left when
    /// they are used again, and round up the first of everything.
    fn idle(&mut self, load: &Load) -> Result<Outcome> {
        let part = |streams| Load { streams, ..*load };
        let first = load.streams / IDLE_BEFORE;
        let more = load.streams - first;
        let (mut outcome, seen) = self.hold(&part(first), |this| {
            let before = Occupied::at_rest(this)?;
            let (outcome, during) = this.hold(&part(more), |this| Occupied::at_rest(this))?;
            Ok((before, during, outcome))
        })?;
        if let Some((before, during, rest)) = seen {
            outcome.errors += rest.errors;
            outcome.report = rest.report;
            if let Some(during) = during {
                outcome.results = during.per_connection(&before, more as f64);
            }
        }
        Ok(outcome)
    }

    /// Opens connections, looks while they do nothing, if they do, and closes them.
    fn hold<T>(
        &mut self,
        load: &Load,
        look: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<(Outcome, Option<T>)> {
        let mut child = start(&mut self.generate(load, Duration::ZERO, Duration::ZERO))?;
        let mut stdin = child.stdin.take().context("no pipe")?;
        let mut stdout = BufReader::new(child.stdout.take().context("no pipe")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let is_idle = line.starts_with(r#"{"idle""#);
        let seen = match is_idle {
            true => Some(look(self)?),
            false => None,
        };
        if is_idle {
            writeln!(stdin)?;
            line.clear();
            stdout.read_line(&mut line)?;
        }
        drop(stdin);
        child.wait()?;
        let report: Value = serde_json::from_str(&line)
            .with_context(|| format!("the generator says nothing: {line:?}"))?;
        Ok((Outcome::of(load, report)?, seen))
    }

    fn reload(&mut self) -> Result<()> {
        let Some(first) = self.first_process else {
            return Ok(());
        };
        self.revision += 1;
        let (dir, open_files) = (self.place.lab.dir(), self.tools.open_files);
        self.system.reload(dir, first, self.site(), open_files)
    }

    fn site(&self) -> Site<'a> {
        Site {
            hosts: &self.tools.hosts[..self.hosts],
            extra: &self.tools.hosts[self.extra_host()],
        }
    }

    /// The number of the host that this revision of the configuration has besides the others.
    fn extra_host(&self) -> usize {
        self.hosts + self.revision % EXTRA_HOSTS
    }

    /// What puts a load on it for so long.
    pub(super) fn generate(&self, load: &Load, warm_up: Duration, time: Duration) -> Command {
        let mut command = self.generator_command();
        command.args(load.arguments());
        command.args(["--endpoint", &self.place.endpoint.to_string()]);
        command.args(["--warm-up", &warm_up.as_millis().to_string()]);
        command.args(["--measure", &time.as_millis().to_string()]);
        command
    }

    /// The generator, on the first CPU.
    fn generator_command(&self) -> Command {
        let mut command = self.place.lab.command(CLIENT, self.tools.generator);
        command.args(["--cpu", "0", "load"]);
        for target in self.system.targets() {
            command.args(["--to", &target]);
        }
        if let Some(dir) = &self.place.tls {
            command.arg("--tls").arg(dir);
        }
        command
    }

    /// Waits until it carries bytes for so many hosts from this one on.
    fn wait_until_it_routes(&mut self, first: usize, count: usize) -> Result<()> {
        let mut command = self.generator_command();
        command.args(["idle", "--first-host", &first.to_string()]);
        command.args(["--streams", "2", "--hosts", &count.to_string()]);
        let name = self.system.key();
        let ready = self.place.lab.wait_until(&format!("{name} routes"), || {
            let output = command.output();
            output.is_ok_and(|output| output.stdout.ends_with(WELL))
        });
        ready.map_err(|error| {
            let words = system::last_words(&self.place.lab);
            error.context(format!("{name} does not route; it says: {words}"))
        })
    }
}

/// Starts a generator; it is told through its standard input when to go on, and tells what came of
/// it on its standard output.
fn start(command: &mut Command) -> Result<Child> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    command.spawn().with_context(|| line(command))
}

impl Outcome {
    fn of(load: &Load, report: Value) -> Result<Self> {
        let errors = report["errors"].as_u64();
        let errors = errors.with_context(|| format!("not a report: {report}"))?;
        // After an error that ends a load there is nothing more to tell.
        let results = match report["error"].is_null() {
            true => load.results(&report)?,
            false => BTreeMap::new(),
        };
        Ok(Self {
            results,
            errors,
            report,
        })
    }
}

/// The end of a report without errors.
const WELL: &[u8] = b"\"errors\":0}\n";
/// A configuration that changes has one of these hosts at a time.
pub const EXTRA_HOSTS: usize = 1000;
const RELOAD: Duration = Duration::from_secs(1);

/// One part of so many of the idle connections is there before the others.
const IDLE_BEFORE: u64 = 4;
