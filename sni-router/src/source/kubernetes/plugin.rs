//! The credential plugin: the program that a kubeconfig names under `exec`, which prints a token or a
//! client certificate (client-go's credential plugins, KEP-541).
//!
//! kube would run it too, but waits for it without end, and takes whatever it prints. Here it has
//! [`WITHIN`] and [`MOST`]; one that is not done by then is killed, with all that it has started.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::jiff::Timestamp;
use kube::config::{AuthInfo, ExecConfig, ExecInteractiveMode};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// A program, and how it is to be run.
#[derive(Clone, Debug)]
pub struct Plugin {
    exec: ExecConfig,
}

/// What it gives.
#[derive(Debug)]
pub struct Credentials {
    status: Status,
    /// Until when they are good; for ever if absent.
    pub until: Option<Timestamp>,
}

impl Plugin {
    /// Takes the program out of what a kubeconfig says of its user; `None` if there is none, or if it says
    /// something else that goes before it.
    pub fn taken_from(user: &mut AuthInfo) -> Option<Self> {
        let exec = user.exec.take()?;
        let has_password = user.username.is_some() && user.password.is_some();
        let goes_before =
            user.token.is_some() || user.token_file.is_some() || user.auth_provider.is_some();
        (!has_password && !goes_before).then_some(Self { exec })
    }

    /// Runs it once.
    ///
    /// # Errors
    ///
    /// Whatever it does other than to print credentials in time.
    pub async fn run(&self) -> Result<Credentials, PluginError> {
        let mut running = Running(self.start()?);
        let child = &mut running.0;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            // To their ends before it is waited for: until then its process id is nobody else's.
            let (printed, told) = tokio::try_join!(read(stdout), read(stderr))?;
            let status = child.wait().await.map_err(PluginError::Lost)?;
            match status.success() {
                true => Credentials::parse(&printed),
                false => Err(PluginError::Failed {
                    status,
                    told: last_line(&told),
                }),
            }
        };
        timeout(WITHIN, work)
            .await
            .unwrap_or(Err(PluginError::Slow))
    }

    fn start(&self) -> Result<Child, PluginError> {
        let exec = &self.exec;
        if exec.interactive_mode == Some(ExecInteractiveMode::Always) {
            return Err(PluginError::Interactive);
        }
        let program = exec.command.as_deref().ok_or(PluginError::Unnamed)?;
        let mut command = Command::new(program);
        command.args(exec.args.iter().flatten());
        let set = exec.env.iter().flatten();
        command.envs(set.filter_map(|it| Some((it.get("name")?, it.get("value")?))));
        let mut spec = json!({ "interactive": false });
        if exec.provide_cluster_info {
            spec["cluster"] = json!(exec.cluster);
        }
        let asked = json!({"apiVersion": exec.api_version, "kind": "ExecCredential", "spec": spec});
        command.env("KUBERNETES_EXEC_INFO", asked.to_string());
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, to be killed as one.
        command.process_group(0);
        command.spawn().map_err(|source| PluginError::Start {
            program: program.to_owned(),
            source,
        })
    }
}

impl Credentials {
    fn parse(printed: &[u8]) -> Result<Self, PluginError> {
        // JSON, by the book; client-go takes YAML as well, so some print that. Why it cannot be read is
        // not told: it would quote secrets.
        let printed: Printed =
            serde_saphyr::from_slice(printed).map_err(|_| PluginError::Unreadable)?;
        let status = printed.status.ok_or(PluginError::Empty)?;
        let has_certificate = status.certificate.is_some() && status.key.is_some();
        if status.token.is_none() && !has_certificate {
            return Err(PluginError::Empty);
        }
        let until = status.until.as_deref().map(str::parse).transpose();
        Ok(Self {
            until: until.map_err(|_| PluginError::Time)?,
            status,
        })
    }

    /// Writes them where a kubeconfig has such.
    pub fn put_into(self, user: &mut AuthInfo) {
        if let Some(token) = self.status.token {
            user.token = Some(token.into());
        }
        if let (Some(certificate), Some(key)) = (self.status.certificate, self.status.key) {
            user.client_certificate_data = Some(base64(certificate));
            user.client_key_data = Some(base64(key).into());
        }
    }
}

fn base64(text: String) -> String {
    match json!(ByteString(text.into_bytes())) {
        Value::String(text) => text,
        _ => String::new(),
    }
}

/// An `ExecCredential` of client.authentication.k8s.io/v1 or v1beta1, as far as it is read.
#[derive(Deserialize)]
struct Printed {
    status: Option<Status>,
}

/// PEM and tokens, so without a `Debug` that shows them.
#[derive(Deserialize)]
struct Status {
    #[serde(rename = "expirationTimestamp")]
    until: Option<String>,
    token: Option<String>,
    #[serde(rename = "clientCertificateData")]
    certificate: Option<String>,
    #[serde(rename = "clientKeyData")]
    key: Option<String>,
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Status")
    }
}

/// A plugin that runs; killed, with what it has started, when this is dropped before it has ended.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // None once it has been waited for: the number may be another's then.
        let leader = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(leader) = leader.and_then(Pid::from_raw) {
            // It fails if all of them have ended meanwhile. tokio waits for the leader.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// All that comes, if it is not too much.
async fn read(pipe: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, PluginError> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        let mut pipe = pipe.take(MOST + 1);
        pipe.read_to_end(&mut bytes)
            .await
            .map_err(PluginError::Lost)?;
        if pipe.limit() == 0 {
            return Err(PluginError::Flood);
        }
    }
    Ok(bytes)
}

/// The last words of standard error, fit for a log.
fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().rfind(|line| !line.trim().is_empty());
    let line = line.unwrap_or("nothing").trim();
    let printable = line.chars().filter(|c| !c.is_control());
    printable.take(LONGEST_WORDS).collect()
}

/// Why there are no credentials.
#[derive(Debug, Error)]
pub enum PluginError {
    /// `exec` has no `command`.
    #[error("the kubeconfig's exec names no command")]
    Unnamed,
    /// `interactiveMode: Always`.
    #[error("the credential plugin wants a terminal (interactiveMode), and there is none")]
    Interactive,
    /// It is not there, or not to be executed.
    #[error("cannot start the credential plugin {program}")]
    Start {
        /// As the kubeconfig names it.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// It hangs.
    #[error("the credential plugin has not ended within {WITHIN:?}, and was killed")]
    Slow,
    /// It prints and prints.
    #[error("the credential plugin prints more than {} KiB, and was killed", MOST >> 10)]
    Flood,
    /// It has ended otherwise than well.
    #[error("the credential plugin ended with {status}, saying {told:?}")]
    Failed {
        /// How.
        status: ExitStatus,
        /// Its last words.
        told: String,
    },
    /// What it printed is no YAML, or of another shape.
    #[error("the credential plugin prints something else than an ExecCredential")]
    Unreadable,
    /// Neither a token nor a certificate with its key.
    #[error("the credential plugin gives neither a token nor a certificate with its key")]
    Empty,
    /// `expirationTimestamp` is no time.
    #[error("the credential plugin's expirationTimestamp is no time of RFC 3339")]
    Time,
    /// The kernel does not say what has become of it.
    #[error("cannot follow the credential plugin")]
    Lost(#[source] io::Error),
}

/// Some ask a service far away, and try again.
pub const WITHIN: Duration = Duration::from_secs(20);

/// A token is a few KiB, a chain of certificates some more.
const MOST: u64 = 1 << 20;

/// Characters of the last words.
const LONGEST_WORDS: usize = 200;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// A plugin that is this script.
    fn plugin(script: &str) -> Plugin {
        let exec = json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "/bin/sh",
            "args": ["-c", script],
            "env": [{"name": "A", "value": "b"}],
            "interactiveMode": "IfAvailable",
        });
        Plugin {
            exec: serde_json::from_value(exec).unwrap(),
        }
    }

    #[tokio::test]
    async fn plugin_gives_what_it_prints_and_is_told_what_it_is_asked() {
        let script = r#"test "$A" = b && case $KUBERNETES_EXEC_INFO in *'"interactive":false'*)
            echo '{"kind": "ExecCredential", "status": {"token": "t",
                "clientCertificateData": "c", "clientKeyData": "k",
                "expirationTimestamp": "2030-01-01T00:00:00Z"}}';; esac"#;
        let given = plugin(script).run().await.unwrap();
        assert_eq!(given.until, Some("2030-01-01T00:00:00Z".parse().unwrap()));
        assert!(!format!("{given:?}").contains("\"t\""), "{given:?}");
        let mut user = AuthInfo::default();
        given.put_into(&mut user);
        let user = json!(user);
        assert_eq!(user["token"], "t");
        assert_eq!(user["client-certificate-data"], "Yw==");
        assert_eq!(user["client-key-data"], "aw==");
    }

    #[tokio::test]
    async fn plugin_that_does_anything_else_is_named_with_its_last_words_and_no_secret() {
        for (script, expected) in [
            (
                "echo a; echo 'no such role' >&2; exit 3",
                "\"no such role\"",
            ),
            (
                "echo '{\"status\": {\"token\": [\"secret\"]}}'",
                "something else",
            ),
            (
                "echo '{\"status\": {\"clientKeyData\": \"k\"}}'",
                "neither a token",
            ),
            ("true", "neither a token"),
            (
                "echo 'status: {token: a, expirationTimestamp: soon}'",
                "no time",
            ),
            ("yes", "more than 1024 KiB"),
            ("yes >&2", "more than 1024 KiB"),
            ("kill -9 $$", "signal: 9"),
        ] {
            let error = plugin(script).run().await.unwrap_err().to_string();
            assert!(error.contains(expected), "{script}: {error}");
            assert!(!error.contains("secret"), "{script}: {error}");
        }
        let mut missing = plugin("true");
        missing.exec.command = Some("/nowhere/plugin".into());
        let error = missing.run().await.unwrap_err();
        assert!(matches!(error, PluginError::Start { .. }), "{error}");
        missing.exec.interactive_mode = Some(ExecInteractiveMode::Always);
        let error = missing.run().await.unwrap_err();
        assert!(matches!(error, PluginError::Interactive), "{error}");
    }

    /// The script waits for what it has started, which holds both pipes.
    #[tokio::test]
    async fn plugin_that_is_given_up_is_killed_with_all_that_it_has_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!(
            "sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait",
            pid.display()
        );
        let run = tokio::spawn(async move { plugin(&script).run().await });
        while !pid.exists() {
            tokio::task::yield_now().await;
        }
        let pid = fs::read_to_string(pid).unwrap();
        let stat = Path::new("/proc").join(pid.trim()).join("stat");
        assert!(fs::read_to_string(&stat).unwrap().contains("sleep"));
        run.abort();
        assert!(run.await.unwrap_err().is_cancelled());
        let has_ended = || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        while !has_ended() {
            tokio::task::yield_now().await;
        }
    }
}
