//! What the router writes to its standard error: JSON lines, among them one access record a connection,
//! unless those have a file of their own.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::daemon::Datapath;

/// One line of the access log. Fields that do not apply to a connection are empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Access {
    /// When it was accepted.
    pub start: String,
    /// The client's address and port.
    pub client: String,
    /// Namespace and name of the Listener.
    pub listener: String,
    /// The VIP and port the client connected to.
    pub vip: String,
    /// The server name in the hello.
    pub sni: String,
    /// The application protocols in the hello.
    pub alpn: String,
    /// The TLS versions in the hello.
    pub tls: String,
    /// The client's fingerprint.
    pub ja4: String,
    /// The host pattern that matched.
    pub route: String,
    /// The Service and port.
    pub backend: String,
    /// The address that was connected to.
    pub endpoint: String,
    /// What moved the bytes.
    pub datapath: String,
    /// Why a better datapath was not taken.
    pub declined: String,
    /// Bytes from the client to the endpoint, the hello included.
    pub bytes_up: u64,
    /// Bytes from the endpoint to the client.
    pub bytes_down: u64,
    /// From accept to close.
    pub duration_ms: f64,
    /// Endpoints that were tried and failed.
    pub retries: u64,
    /// Which ones, and how.
    pub failed: String,
    /// What is wrong with a malformed hello.
    pub detail: String,
    /// Who closed first.
    pub closed_by: String,
    /// How the connection ended.
    pub reason: String,
    /// Records of this reason that were left out before this one.
    pub suppressed: u64,
}

impl Access {
    /// Checks that this datapath carried the connection, or declined it for one of these reasons.
    #[track_caller]
    pub fn assert_carried(&self, datapath: Datapath, declined: &[&str]) {
        let is_excused = declined.contains(&self.declined.as_str());
        assert!(is_excused || self.datapath == datapath.name(), "{self:?}");
    }
}

/// The records in a file of them, so far; none where there is no file. Panics at a line that is no
/// record.
#[track_caller]
pub fn read(path: &Path) -> Vec<Access> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(e) => panic!("{}: {e}", path.display()),
    };
    // The last line may be half written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| parse(line).unwrap_or_else(|| panic!("not a record: {line:?}")))
        .collect()
}

/// The lines so far.
#[derive(Debug, Default)]
pub struct Log {
    state: Mutex<State>,
    grown: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    access: Vec<Access>,
    /// Which of them were answered to who asked for them by address.
    answered: HashSet<usize>,
    ended: bool,
}

impl Log {
    /// Takes lines until the writer closes its end.
    pub(crate) fn fill(&self, from: impl BufRead) {
        for line in from.lines().map_while(Result::ok) {
            let record = parse(&line);
            let mut state = self.lock();
            state.access.extend(record);
            state.lines.push(line);
            self.grown.notify_all();
        }
        self.lock().ended = true;
        self.grown.notify_all();
    }

    /// All lines so far, for a person to read.
    pub fn text(&self) -> String {
        self.lock().lines.join("\n")
    }

    /// All access records so far.
    pub fn access(&self) -> Vec<Access> {
        self.lock().access.clone()
    }

    /// The access record after the first `known` ones, for connections made one after another.
    #[track_caller]
    pub fn wait_for_nth_access(&self, known: usize, limit: Duration) -> Access {
        self.wait(limit, |state| state.access.get(known).cloned())
            .unwrap_or_else(|| panic!("no access record after {known} within {limit:?}"))
    }

    /// The first access record that `wanted` takes; panics when there is none in time.
    #[track_caller]
    pub fn wait_for_access(&self, limit: Duration, wanted: impl Fn(&Access) -> bool) -> Access {
        self.wait(limit, |state| {
            state.access.iter().find(|record| wanted(record)).cloned()
        })
        .unwrap_or_else(|| panic!("no such access record within {limit:?}"))
    }

    /// The access record of the connection that came from here. A record is answered once: the
    /// next connection may come from the same port.
    #[track_caller]
    pub fn access_of(&self, client: SocketAddr, limit: Duration) -> Access {
        let client = client.to_string();
        self.wait(limit, |state| {
            let mut records = state.access.iter().enumerate();
            let (index, record) = records.find(|(index, record)| {
                record.client == client && !state.answered.contains(index)
            })?;
            let record = record.clone();
            state.answered.insert(index);
            Some(record)
        })
        .unwrap_or_else(|| panic!("no access record of {client} within {limit:?}"))
    }

    /// The first line with this text; panics when there is none in time.
    #[track_caller]
    pub fn wait_for_line(&self, text: &str, limit: Duration) -> String {
        self.wait(limit, |state| {
            let mut lines = state.lines.iter();
            lines.find(|line| line.contains(text)).cloned()
        })
        .unwrap_or_else(|| panic!("no line with {text:?} within {limit:?}"))
    }

    fn wait<T>(&self, limit: Duration, find: impl Fn(&mut State) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if let Some(found) = find(&mut state) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.ended {
                return None;
            }
            let waited = self.grown.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The access record in a line, if it is one.
fn parse(line: &str) -> Option<Access> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    if value["target"] != "access" {
        return None;
    }
    let record = serde_json::from_value(value).unwrap_or_else(|e| Access {
        reason: format!("not an access record: {e}: {line}"),
        ..Access::default()
    });
    Some(record)
}
