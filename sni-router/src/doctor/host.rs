//! The files in which the kernel tells about itself, below a root of a test's choice.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::finding::Finding;

/// `/proc`.
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// This one.
    pub fn real() -> Self {
        Self { root: "/".into() }
    }

    /// One whose files are below a directory.
    #[cfg(test)]
    pub fn at(root: &std::path::Path) -> Self {
        Self { root: root.into() }
    }

    /// A file, by its path without the leading slash, with no white space around.
    pub fn read(&self, path: &str) -> io::Result<String> {
        let text = fs::read(self.root.join(path))?;
        // Names of processes may be anything.
        Ok(String::from_utf8_lossy(&text).trim().to_owned())
    }

    /// The names in a directory; none where it cannot be read.
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(path)).into_iter().flatten();
        entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect()
    }

    /// Where a symbolic link points to.
    pub fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.root.join(path)).ok()?;
        Some(target.to_str()?.to_owned())
    }

    /// A file that has to be there for a check to go on.
    pub fn need(&self, path: &str) -> Result<String, Finding> {
        self.read(path).map_err(|error| missing(path, &error))
    }

    /// A setting of the kernel, as sysctl(8) calls it: `net.core.somaxconn`.
    pub fn sysctl(&self, name: &str) -> Result<String, Finding> {
        self.read(&path_of(name))
            .map_err(|error| missing(name, &error))
    }

    /// A setting that is a number.
    pub fn number(&self, name: &str) -> Result<u64, Finding> {
        let text = self.sysctl(name)?;
        text.parse()
            .map_err(|_| Finding::unknown(format!("{name} is {text:?}, which is no number")))
    }

    /// Whether a process is a router that runs, of the program that asks.
    pub fn is_router(&self, pid: u32) -> bool {
        let of = |pid: &str| self.read(&format!("proc/{pid}/comm")).ok();
        let Ok(arguments) = self.read(&format!("proc/{pid}/cmdline")) else {
            return false;
        };
        arguments.split('\0').nth(1) == Some("run") && of(&pid.to_string()) == of("self")
    }
}

/// Of a setting.
fn path_of(name: &str) -> String {
    format!("proc/sys/{}", name.replace('.', "/"))
}

fn missing(name: &str, error: &io::Error) -> Finding {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Finding::unknown(format!("only root may read {name}")).mend(AS_ROOT)
        }
        io::ErrorKind::NotFound => Finding::unknown(format!("{name} is not visible here"))
            .mend("look outside of the container or network namespace"),
        _ => Finding::unknown(format!("{name} cannot be read: {error}")),
    }
}

/// How to get the rights that a check lacks.
pub(super) const AS_ROOT: &str =
    "run doctor as the router runs: as root, in its container, or in its unit";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::finding::Level;
    use super::*;

    #[test]
    fn what_is_not_there_or_no_number_is_unknown_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::at(dir.path());
        let found = host.number("net.core.somaxconn").unwrap_err();
        assert_eq!(found.level, Level::Unknown);
        assert!(found.what.contains("net.core.somaxconn"), "{found:?}");
        fs::create_dir_all(dir.path().join("proc/sys/net/core")).unwrap();
        let file = dir.path().join("proc/sys/net/core/somaxconn");
        fs::write(&file, "4096\n").unwrap();
        assert_eq!(host.number("net.core.somaxconn"), Ok(4096));
        fs::write(&file, "many").unwrap();
        let found = host.number("net.core.somaxconn").unwrap_err();
        assert!(found.what.contains("many"), "{found:?}");
    }

    #[test]
    fn router_is_who_has_our_name_and_runs() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::at(dir.path());
        for (pid, comm, arguments) in [
            ("1", "init", "init\0run\0"),
            ("2", "sni-router", "sni-router\0run\0--claim-vips\0"),
            ("3", "sni-router", "sni-router\0doctor\0"),
        ] {
            let of = dir.path().join("proc").join(pid);
            fs::create_dir_all(&of).unwrap();
            fs::write(of.join("comm"), comm).unwrap();
            fs::write(of.join("cmdline"), arguments).unwrap();
        }
        symlink("3", dir.path().join("proc/self")).unwrap();
        assert_eq!(
            [1, 2, 3, 4].map(|pid| host.is_router(pid)),
            [false, true, false, false]
        );
        assert_eq!(host.link("proc/self").as_deref(), Some("3"));
    }
}
