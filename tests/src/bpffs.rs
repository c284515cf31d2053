//! A BPF file system of a test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::netns::{Scratch, unique_name};

/// Mounted on a directory of the lab; unmounted on drop, with all that is pinned in it.
#[derive(Debug)]
pub struct Bpffs(Scratch);

impl Bpffs {
    /// Mounts one.
    #[track_caller]
    pub fn mount() -> Self {
        let scratch = Scratch::create(&unique_name());
        let mut mount = Command::new("mount");
        mount.args(["-t", "bpf", "bpf"]).arg(scratch.path());
        let output = mount.output().expect("the lab needs `mount`");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "mount a bpffs: {stderr}");
        Self(scratch)
    }

    /// As the router's flag takes it.
    pub fn dir(&self) -> &str {
        self.0.path().to_str().expect("a path of the lab")
    }

    /// What is in the directory of the one router that pins here, but for its owner's name.
    pub fn pinned(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(self.0.path(), &mut found);
        found
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        unmount(self.0.path());
    }
}

/// Also where nothing is mounted.
pub(crate) fn unmount(path: &Path) {
    let mut umount = Command::new("umount");
    let _ = umount.arg("-l").arg(path).stderr(Stdio::null()).status();
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        // Every BPF file system has these two.
        if name == "maps.debug" || name == "progs.debug" || name == "owner" {
            continue;
        }
        if path.is_dir() {
            collect(&path, found);
        } else {
            found.push(path);
        }
    }
}
