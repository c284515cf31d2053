//! A process whose output goes to a file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::place::Place;

/// A running process; killed on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it, with what it prints in `log`, after what may be there already.
    #[track_caller]
    pub fn start(place: &Place, mut command: Command, log: &Path) -> Self {
        let file = File::options().append(true).create(true).open(log);
        let file = file.unwrap_or_else(|e| panic!("{}: {e}", log.display()));
        command.stdin(Stdio::null());
        command.stdout(file.try_clone().expect("a descriptor"));
        command.stderr(file);
        Self {
            child: place.spawn(command),
            log: log.to_owned(),
        }
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Kills it with SIGKILL and reaps it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The last lines that it printed.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

const LAST_LINES: usize = 30;
