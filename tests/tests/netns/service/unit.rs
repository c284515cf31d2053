//! deploy/systemd/sni-router.service, as systemd reads it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::thread::CapabilitySet;

/// A unit's settings, in their order.
pub(super) struct Unit(Vec<(String, String)>);

impl Unit {
    /// The one that is installed.
    pub(super) fn read() -> Self {
        let text = fs::read_to_string(path()).expect("a unit");
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.starts_with(['#', ';', '[']));
        let settings = lines.filter_map(|line| line.split_once('='));
        Self(
            settings
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
    }

    /// The values of a setting that may come several times.
    pub(super) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        let settings = self.0.iter().filter(move |(name, _)| name == key);
        settings.map(|(_, value)| value.as_str())
    }

    /// The value of a setting that is there once.
    #[track_caller]
    pub(super) fn value(&self, key: &str) -> &str {
        let mut values = self.all(key);
        let value = values.next().unwrap_or_else(|| panic!("no {key}="));
        assert_eq!(values.next(), None, "{key}= is there twice");
        value
    }

    /// The capabilities of a setting.
    pub(super) fn capabilities(&self, key: &str) -> CapabilitySet {
        let names = self.value(key).split_whitespace();
        let named = names.map(|name| {
            let capability = CapabilitySet::from_name(name.trim_start_matches("CAP_"));
            capability.unwrap_or_else(|| panic!("{name} is no capability"))
        });
        named.collect()
    }

    /// The system calls it allows. A list that begins with what is allowed also has `@default`; what follows
    /// is added, or with `~` removed (systemd.exec(5), SystemCallFilter=).
    pub(super) fn system_calls(&self) -> BTreeSet<String> {
        let mut allowed = BTreeSet::new();
        expand("@default", &mut allowed);
        for value in self.all("SystemCallFilter") {
            let mut named = BTreeSet::new();
            let names = value.trim_start_matches('~').split_whitespace();
            names.for_each(|name| expand(name, &mut named));
            if value.starts_with('~') {
                allowed.retain(|name| !named.contains(name));
            } else {
                allowed.extend(named);
            }
        }
        allowed
    }
}

/// Where it is.
pub(super) fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/sni-router.service")
}

/// A system call, or all of a group.
fn expand(name: &str, into: &mut BTreeSet<String>) {
    if !name.starts_with('@') {
        into.insert(name.to_owned());
        return;
    }
    let listed = analyze(&["syscall-filter", name]);
    let lines = listed.lines().map(str::trim);
    let members = lines.filter(|line| !line.is_empty() && !line.starts_with('#') && *line != name);
    members.for_each(|member| expand(member, into));
}

/// The standard output of systemd-analyze.
#[track_caller]
pub(super) fn analyze(args: &[&str]) -> String {
    let mut command = Command::new("systemd-analyze");
    let output = command.arg("--no-pager").args(args).output();
    let output = output.expect("the tests need `systemd-analyze` (apt-get install systemd)");
    let (stdout, stderr) = (output.stdout, String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success(),
        "systemd-analyze {args:?}: {stderr}"
    );
    String::from_utf8(stdout).expect("text")
}
