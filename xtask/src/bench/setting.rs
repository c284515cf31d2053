//! The settings of the machine that are changed while something is measured, and put back.

use std::fs::{self, File};
use std::io;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, flock};

use crate::lab::check_stop;

/// The congestion control of the initial namespace, which new namespaces inherit; inside one the
/// kernel refuses to choose any but reno. Put back on drop.
pub struct Congestion {
    setting: Changed,
    used: String,
    /// Held while the setting is changed: two benchmarks at once would be worth nothing.
    _lock: File,
}

impl Congestion {
    /// Waits for other benchmarks to end, and sets it; fails when the user wants to stop.
    pub fn set(name: &str, stop: &AtomicBool) -> Result<Self> {
        let lock = File::create(LOCK).context(LOCK)?;
        let take = || flock(&lock, FlockOperation::NonBlockingLockExclusive);
        if take().is_err() {
            println!("bench: waits for another benchmark on this machine");
            while take().is_err() {
                check_stop(stop)?;
                thread::sleep(Duration::from_millis(100));
            }
        }
        let this = Self {
            setting: Changed::begin(CONGESTION)?,
            used: name.to_owned(),
            _lock: lock,
        };
        this.write(name)?;
        Ok(this)
    }

    /// What there was.
    pub fn before(&self) -> &str {
        &self.setting.before
    }

    /// What is set.
    pub fn used(&self) -> &str {
        &self.used
    }

    /// Makes namespaces with this one. Theirs stays as it is: what is set goes back at once.
    pub fn with<T>(&self, name: &str, make: impl FnOnce() -> Result<T>) -> Result<T> {
        self.write(name)?;
        let made = make();
        self.write(&self.used)?;
        made
    }

    /// Whether the kernel has this one.
    pub fn has(&self, name: &str) -> bool {
        // Not only what is in the list of those available: asked for one, the kernel may load it.
        self.with(name, || Ok(())).is_ok()
    }

    fn write(&self, name: &str) -> Result<()> {
        self.setting
            .write(name)
            .with_context(|| format!("the kernel does not know the congestion control {name}"))
    }
}

/// The kernel's accounting of the time that BPF programs take, switched on; put back on drop.
pub struct BpfStats(Changed);

impl BpfStats {
    /// Whether there is such a thing.
    pub fn exist() -> bool {
        fs::metadata(BPF_STATS.path).is_ok()
    }

    /// Switches it on. Every run of a program looks at the clock twice from now on, so it is not for
    /// times when anything else is measured.
    pub fn on() -> Result<Self> {
        let this = Self(Changed::begin(BPF_STATS)?);
        this.0.write("1").context(BPF_STATS.path)?;
        Ok(this)
    }
}

/// A setting.
#[derive(Clone, Copy)]
struct Setting {
    path: &'static str,
    /// A file that says what there was, for as long as it is not put back.
    reminder: &'static str,
}

/// A setting that is changed; put back on drop.
struct Changed {
    setting: Setting,
    before: String,
}

impl Changed {
    fn begin(setting: Setting) -> Result<Self> {
        let Setting { path, reminder } = setting;
        // What a run that was killed has not put back.
        let before = match fs::read_to_string(reminder) {
            Ok(before) => before,
            Err(_) => fs::read_to_string(path).context(path)?.trim().to_owned(),
        };
        fs::write(reminder, &before).context(reminder)?;
        Ok(Self { setting, before })
    }

    fn write(&self, value: &str) -> io::Result<()> {
        fs::write(self.setting.path, value)
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        let Setting { path, reminder } = self.setting;
        let restored = self.write(&self.before);
        if let Err(error) = restored.and_then(|()| fs::remove_file(reminder)) {
            eprintln!("bench: cannot put {path} = {} back: {error}", self.before);
        }
    }
}

const CONGESTION: Setting = Setting {
    path: "/proc/sys/net/ipv4/tcp_congestion_control",
    reminder: "/run/sni-router-bench.congestion",
};
const BPF_STATS: Setting = Setting {
    path: "/proc/sys/kernel/bpf_stats_enabled",
    reminder: "/run/sni-router-bench.bpf-stats",
};
const LOCK: &str = "/run/sni-router-bench.lock";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_is_put_back_as_it_was_when_an_earlier_run_was_killed() {
        let dir = crate::command::target_dir()
            .join("tmp")
            .join(format!("bench-setting-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = |name| {
            let path = dir.join(name).display().to_string();
            &*Box::leak(path.into_boxed_str())
        };
        let setting = Setting {
            path: path("setting"),
            reminder: path("reminder"),
        };
        let is = || fs::read_to_string(setting.path).unwrap();
        fs::write(setting.path, "before\n").unwrap();

        let killed = Changed::begin(setting).unwrap();
        killed.write("during").unwrap();
        std::mem::forget(killed);
        assert_eq!(is(), "during");

        let next = Changed::begin(setting).unwrap();
        next.write("later").unwrap();
        assert_eq!(is(), "later");
        drop(next);
        assert_eq!(is(), "before");
        assert!(fs::metadata(setting.reminder).is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
