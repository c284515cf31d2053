//! One load on one running system.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::config::Site;
use super::load::{Load, Setting, Work};
use super::machine;
use super::place::Place;
use super::system::{self, System};
use crate::command::line;
use crate::lab::CLIENT;

/// A system that runs, and what measures it.
pub struct Bench<'a> {
    /// Where it runs.
    pub place: Place,
    system: &'a System,
    tools: Tools<'a>,
    /// How many hosts it routes.
    hosts: usize,
    first_process: Option<u32>,
    /// How often its configuration has changed.
    revision: usize,
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
            _ => self.timed(load)?,
        };
        // Nobody may have died over it.
        self.place.lab.wait_until("its programs run", || true)?;
        Ok(outcome)
    }

    /// The part of the connections that were carried otherwise than asked for; only sni-router
    /// tells.
    pub fn carried_otherwise(&self) -> Result<f64> {
        match self.system.name {
            "sni-router" => system::carried_otherwise(&self.place.lab, self.system.datapath),
            _ => Ok(0.0),
        }
    }

    fn timed(&mut self, load: &Load) -> Result<Outcome> {
        let mut child = self.generate(load)?;
        let mut next_reload = Instant::now() + RELOAD;
        let before = self.revision;
        while child.try_wait()?.is_none() {
            if self.place.lab.check_stop().is_err() {
                child.kill()?;
            }
            if load.setting == Setting::Reloaded && Instant::now() >= next_reload {
                next_reload += RELOAD;
                self.reload()?;
            }
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
        let mut outcome = Outcome::of(load, report)?;
        if load.setting == Setting::Reloaded {
            let reloads = (self.revision - before) as f64;
            outcome.results.insert("reloads".to_owned(), reloads);
            self.wait_until_it_routes(self.extra_host(), 1)
                .context("it has not taken its last configuration")?;
        }
        Ok(outcome)
    }

    /// Opens connections, and looks at what they occupy while they do nothing.
    fn idle(&mut self, load: &Load) -> Result<Outcome> {
        let before = self.occupied()?;
        let mut child = self.generate(load)?;
        let mut stdin = child.stdin.take().context("no pipe")?;
        let mut stdout = BufReader::new(child.stdout.take().context("no pipe")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let is_idle = line.starts_with(r#"{"idle""#);
        let during = self.occupied()?;
        if is_idle {
            writeln!(stdin)?;
            line.clear();
            stdout.read_line(&mut line)?;
        }
        drop(stdin);
        child.wait()?;
        let report: Value = serde_json::from_str(&line)
            .with_context(|| format!("the generator says nothing: {line:?}"))?;
        let mut outcome = Outcome::of(load, report)?;
        if is_idle {
            outcome.results = per_connection(&before, &during, load.streams as f64);
        }
        Ok(outcome)
    }

    fn occupied(&self) -> Result<Occupied> {
        let mut occupied = Occupied {
            sockets: machine::socket_memory()?,
            ..Occupied::default()
        };
        // Forwarding has no process.
        if self.first_process.is_none() {
            return Ok(occupied);
        }
        let mut maps = BTreeMap::new();
        for pid in system::processes(&self.place.lab)? {
            let process = Path::new("/proc").join(pid.to_string());
            occupied.rss += rss(&fs::read_to_string(process.join("status"))?);
            let sockstat = fs::read_to_string(process.join("net/sockstat"))?;
            occupied.own_sockets = number_after(&sockstat, "TCP: inuse");
            for info in fs::read_dir(process.join("fdinfo"))?.flatten() {
                occupied.descriptors += 1;
                // A descriptor may be closed meanwhile.
                let info = fs::read_to_string(info.path()).unwrap_or_default();
                maps.extend(map(&info));
            }
        }
        occupied.maps = maps.values().sum();
        Ok(occupied)
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

    fn generate(&self, load: &Load) -> Result<Child> {
        let mut command = self.generator_command();
        command.args(load.arguments());
        command.args(["--endpoint", &self.place.endpoint.to_string()]);
        command.args(["--warm-up", &(self.tools.time / 4).as_millis().to_string()]);
        command.args(["--measure", &self.tools.time.as_millis().to_string()]);
        let (stdin, stdout) = (Stdio::piped(), Stdio::piped());
        command.stdin(stdin).stdout(stdout).stderr(Stdio::piped());
        command.spawn().with_context(|| line(&command))
    }

    /// The generator, on the first CPU.
    fn generator_command(&self) -> Command {
        let mut command = self.place.lab.command(CLIENT, self.tools.generator);
        command.args(["--cpu", "0", "load"]);
        for target in self.system.targets() {
            command.args(["--to", &target]);
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

/// What a system occupies.
#[derive(Debug, Default)]
struct Occupied {
    /// Memory of its processes, in bytes.
    rss: u64,
    /// Kernel memory for sockets, of all namespaces.
    sockets: u64,
    /// How many sockets are its own.
    own_sockets: u64,
    /// Memory of its BPF maps.
    maps: u64,
    descriptors: u64,
}

/// Differences by connection. Client and endpoint have a socket each, which count as much as each
/// of the system's.
fn per_connection(before: &Occupied, during: &Occupied, count: f64) -> BTreeMap<String, f64> {
    let each = |before: u64, during: u64| (during as f64 - before as f64) / count;
    let rss = each(before.rss, during.rss);
    let maps = each(before.maps, during.maps);
    let own = each(before.own_sockets, during.own_sockets);
    let sockets = each(before.sockets, during.sockets) * own / (own + 2.0);
    let results = [
        ("bytes_per_conn", rss + sockets + maps),
        ("rss_bytes_per_conn", rss),
        ("socket_bytes_per_conn", sockets),
        ("bpf_bytes_per_conn", maps),
        ("rss_bytes", during.rss as f64),
        ("bpf_bytes", during.maps as f64),
        ("fds_per_conn", each(before.descriptors, during.descriptors)),
    ];
    results.map(|(key, value)| (key.to_owned(), value)).into()
}

/// `VmRSS: 1234 kB` in /proc/PID/status.
fn rss(status: &str) -> u64 {
    number_after(status, "VmRSS:") * 1024
}

/// The number and the bytes of a BPF map, if this fdinfo is of one: `map_id: 5`, `memlock: 4096`
/// (kernel: bpf_map_show_fdinfo in kernel/bpf/syscall.c).
fn map(info: &str) -> Option<(u64, u64)> {
    let is_map = info.lines().any(|line| line.starts_with("map_id:"));
    is_map.then(|| {
        (
            number_after(info, "map_id:"),
            number_after(info, "memlock:"),
        )
    })
}

fn number_after(text: &str, key: &str) -> u64 {
    let rest = text.lines().find_map(|line| line.strip_prefix(key));
    let number = rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

/// The end of a report without errors.
const WELL: &[u8] = b"\"errors\":0}\n";
/// A configuration that changes has one of these hosts at a time.
pub const EXTRA_HOSTS: usize = 1000;
const RELOAD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_sockets_is_shared_by_those_that_have_them() {
        let before = Occupied::default();
        let during = Occupied {
            rss: 5_000,
            sockets: 400_000,
            own_sockets: 20,
            maps: 10_000,
            descriptors: 20,
        };
        let results = per_connection(&before, &during, 10.0);
        // Two of four sockets are the system's.
        assert_eq!(results["socket_bytes_per_conn"], 20_000.0);
        assert_eq!(results["bytes_per_conn"], 500.0 + 20_000.0 + 1_000.0);
        assert_eq!(results["fds_per_conn"], 2.0);
    }

    #[test]
    fn maps_are_told_from_other_descriptors() {
        let info = "pos:\t0\nmap_type:\t1\nmemlock:\t4096\nmap_id:\t5\nfrozen:\t0\n";
        assert_eq!(map(info), Some((5, 4096)));
        assert_eq!(
            map("pos:\t0\nprog_type:\t1\nmemlock:\t4096\nprog_id:\t5\n"),
            None
        );
        assert_eq!(rss("Name:\tx\nVmRSS:\t  12 kB\n"), 12_288);
    }
}
