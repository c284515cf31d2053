//! The router under demonstration.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::lab::{Lab, ROUTER, VIP, ip};
use anyhow::{Result, bail};
use serde_json::Value;

/// A running `sni-router`, and its log.
pub struct Router {
    pid: u32,
    log: PathBuf,
}

impl Router {
    /// Starts the binary and waits until it is ready.
    pub fn start(lab: &mut Lab, binary: &Path, manifests: &Path, datapath: &str) -> Result<Self> {
        let admin = lab.dir().join("admin.sock");
        let log = log_of(lab);
        let mut command = lab.command(ROUTER, binary);
        command.arg("run").arg("--manifests").arg(manifests);
        command.args([
            "--datapath",
            datapath,
            "--claim-vips",
            // Nothing is to outlive it.
            "--pin-dir",
            "none",
            "--log-format",
            "json",
        ]);
        command
            .arg("--admin")
            .arg(format!("unix:{}", admin.display()));
        // A file, not a pipe, so that `--keep` can leave it.
        command.stdout(Stdio::null()).stderr(File::create(&log)?);
        let pid = lab.spawn(&mut command)?;
        lab.wait_until("the router is ready", || is_ready(&admin))?;
        Ok(Self { pid, log })
    }

    /// The access records so far.
    pub fn access(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().filter_map(access_record).collect()
    }

    /// Ends it, and checks that it has taken the VIP away with it.
    pub fn stop(self, lab: &mut Lab) -> Result<()> {
        lab.terminate(self.pid)?;
        let namespace = lab.namespace(ROUTER);
        let routes = ip(&["-n", &namespace, "route", "show", "table", "local"])?;
        if routes.contains(VIP) {
            bail!("the router has ended, but its route to {VIP} is still there: {routes}");
        }
        Ok(())
    }
}

/// The end of the router's log, for a demo that failed.
pub fn last_words(lab: &Lab) -> String {
    let text = fs::read_to_string(log_of(lab)).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(20)..];
    match last.is_empty() {
        true => "the router has logged nothing".to_owned(),
        false => format!("the router's last words:\n  {}", last.join("\n  ")),
    }
}

fn log_of(lab: &Lab) -> PathBuf {
    lab.dir().join("router.log")
}

/// Whether the admin API answers /readyz with 200.
fn is_ready(admin: &Path) -> bool {
    let ask = || {
        let mut stream = UnixStream::connect(admin)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: router\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
}

/// The access record in a line of the log, if it is one. The last line may be half written.
fn access_record(line: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(line).ok()?;
    (value["target"] == "access").then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_record_is_taken_from_whole_access_lines_only() {
        let line = r#"{"target":"access","sni":"a.test","reason":"done"}"#;
        assert_eq!(access_record(line).unwrap()["sni"], "a.test");
        assert_eq!(access_record(&line.replace("access", "sni_router")), None);
        assert_eq!(access_record(&line[..30]), None);
    }
}
