//! `lint`: everything that can be said about the code without running it.

mod layers;
mod sizes;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};

use crate::command::{cargo, cargo_of, run, step, target_dir, workspace};
use crate::setup;
use crate::toolchain::{BPF_TARGET, Route};

/// Runs every lint; the first one that finds something ends it.
pub fn lint() -> Result<()> {
    setup::ensure()?;
    step("layers", layers::check)?;
    step("file sizes", sizes::warn)?;
    step("formatting", || {
        run(cargo().args(["fmt", "--all", "--check"]))?;
        run(cargo().args(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))
    })?;
    step("clippy, host", || {
        let args = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ];
        run(cargo().args(args))
    })?;
    step("clippy, BPF", clippy_bpf)?;
    step("documentation", || {
        let args = [
            "doc",
            "--workspace",
            "--no-deps",
            "--document-private-items",
        ];
        // These pages are for whoever works on the code: private modules are in them, so links to
        // them work.
        let flags = "-D warnings -A rustdoc::private_intra_doc_links";
        run(cargo().args(args).env("RUSTDOCFLAGS", flags))
    })
}

/// Lints the BPF crate for its own target, as aya-build compiles it.
fn clippy_bpf() -> Result<()> {
    let route = Route::choose().map_err(|error| anyhow!(error))?;
    let route = route.context("no BPF toolchain is ready")?;
    let mut command = cargo_of(route.toolchain());
    command.args(["clippy", "--package", "sni-router-ebpf", "--release"]);
    command.args(["--target", BPF_TARGET, "--target-dir"]);
    command.arg(target_dir().join("bpf-clippy"));
    if route == Route::Nightly {
        command.args(["-Z", "build-std=core"]);
    }
    command.args(["--", "-D", "warnings"]);
    let arch = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    run(command.env("CARGO_ENCODED_RUSTFLAGS", arch))
}

/// All Rust files below a directory of the workspace, sorted, with what is in them.
fn sources(dir: &str) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    let mut dirs = vec![workspace().join(dir)];
    while let Some(dir) = dirs.pop() {
        let entries = fs::read_dir(&dir).with_context(|| dir.display().to_string())?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path)?;
                found.push((relative(&path), text));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn relative(path: &Path) -> PathBuf {
    path.strip_prefix(workspace()).unwrap_or(path).to_owned()
}
