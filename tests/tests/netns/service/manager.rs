//! Who listens at `$NOTIFY_SOCKET`.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// In the place of a supervisor.
pub(super) struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

/// What it is told at once, as lines `NAME=value`.
#[derive(Clone, Debug)]
pub(super) struct Message(String);

impl Manager {
    /// Listens at a socket in `dir`, also to other users.
    pub(super) fn listen(dir: &Path, name: &str) -> Self {
        let path = dir.join(name).with_extension("notify");
        let socket = UnixDatagram::bind(&path).expect("bind the socket of a supervisor");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("chmod");
        Self { socket, path }
    }

    /// For `$NOTIFY_SOCKET`.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The next message, whatever it says; `None` when there is none in time.
    pub(super) fn next(&self, limit: Duration) -> Option<Message> {
        let deadline = Instant::now() + limit;
        let mut buffer = [0; 4096];
        let length = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = left.max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left)).expect("a timeout");
            match self.socket.recv(&mut buffer) {
                Ok(length) => break length,
                // A child of another test has ended.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        };
        let text = String::from_utf8(buffer[..length].to_vec());
        Some(Message(text.expect("it is told text")))
    }

    /// The next message that changes what it believes: neither only a status nor a sign of life.
    #[track_caller]
    pub(super) fn expect(&self, line: &str, limit: Duration) -> Message {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self.next(left);
            let message = message.unwrap_or_else(|| panic!("not within {limit:?}: {line}"));
            if message.has(line) {
                return message;
            }
            let is_other = STATES.iter().any(|state| message.has(state));
            assert!(!is_other, "before {line}: {message:?}");
        }
    }
}

impl Message {
    /// Whether it has this line.
    pub(super) fn has(&self, line: &str) -> bool {
        self.0.lines().any(|it| it == line)
    }

    /// The value of a name.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        let mut lines = self.0.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }
}

const STATES: [&str; 3] = ["READY=1", "RELOADING=1", "STOPPING=1"];
