//! `dist`: what is released. A static binary, and an archive of it with what deploys it.
//!
//! The same commit gives the same bytes: dependencies are locked, and the only time in it is that of the
//! commit. Paths are mapped to others that are the same everywhere, but for those in the line
//! information of the kernel programs, whose flags aya-build sets: checkout and CARGO_HOME must be where
//! they were, as in the container file.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;

use crate::command::{self, cargo, output, step, target_dir, workspace};
use crate::totals::Totals;
use crate::{cluster, setup};

/// How to build it.
#[derive(ClapArgs)]
pub struct Args {
    /// Build everything a second time, from nothing, and fail if a byte differs
    #[arg(long)]
    verify: bool,

    /// Have this very binary pass the tests against a real Kubernetes API server (as test-cluster)
    #[arg(long)]
    check: bool,
}

/// Builds the archive into `target/dist`, with its checksum beside it.
pub fn dist(args: &Args) -> Result<ExitCode> {
    setup::ensure()?;
    setup::ensure_program("musl-gcc", "musl-tools")?;
    let target = format!("{}-unknown-linux-musl", env::consts::ARCH);
    command::run(Command::new("rustup").args(["--quiet", "target", "add", &target]))?;
    let epoch = epoch()?;
    let dist = target_dir().join("dist");
    let archive = step("archive", || {
        let binary = build(&target, &epoch, &target_dir())?;
        pack(&binary, &epoch, &dist)
    })?;
    if args.verify {
        let again = target_dir().join("dist-verify");
        let second = step("the same again", || {
            let binary = build(&target, &epoch, &again)?;
            pack(&binary, &epoch, &again.join("dist"))
        })?;
        if fs::read(&archive)? != fs::read(&second)? {
            bail!("{} and {} differ", archive.display(), second.display());
        }
        println!("built twice, and not a byte differs");
        fs::remove_dir_all(again)?;
    }
    println!("{}", archive.display());
    if args.check {
        return Totals::of(|totals| cluster::run(totals, Some(&dist.join("sni-router"))));
    }
    Ok(ExitCode::SUCCESS)
}

/// The static binary, built below `target_dir`.
fn build(target: &str, epoch: &str, target_dir: &Path) -> Result<PathBuf> {
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = || env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    let cargo_home = cargo_home.or_else(home).context("no CARGO_HOME")?;
    let maps = [(workspace(), "/sni-router"), (&*cargo_home, "/cargo")];
    let rust = maps.map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    let c = maps.map(|(from, to)| format!("-ffile-prefix-map={}={to}", from.display()));
    let name = target.replace('-', "_");
    let mut command = cargo();
    command.args(["build", "--release", "--locked", "--package", "sni-router"]);
    command
        .args(["--target", target, "--target-dir"])
        .arg(target_dir);
    // Symbols stay in the debug build: this one is to be small.
    command.args(["--config", "profile.release.strip=true"]);
    command.env("CARGO_ENCODED_RUSTFLAGS", rust.join("\x1f"));
    command.env("SOURCE_DATE_EPOCH", epoch);
    command.env(format!("CC_{name}"), "musl-gcc");
    command.env(format!("CFLAGS_{name}"), c.join(" "));
    command::run(&mut command)?;
    Ok(target_dir.join(target).join("release/sni-router"))
}

/// The archive and its checksum, in `dist`.
fn pack(binary: &Path, epoch: &str, dist: &Path) -> Result<PathBuf> {
    let name = format!(
        "sni-router-{}-linux-{}",
        env!("CARGO_PKG_VERSION"),
        env::consts::ARCH
    );
    let root = dist.join(&name);
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::create_dir_all(&root)?;
    fs::copy(binary, root.join("sni-router"))?;
    // Beside the archive too, where the Containerfile takes it.
    fs::copy(binary, dist.join("sni-router"))?;
    let mut copy = Command::new("cp");
    copy.arg("-r").current_dir(workspace());
    copy.args(["LICENSE-APACHE", "LICENSE-MIT", "deploy"]);
    output(copy.arg(&root))?;
    let archive = dist.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--sort=name",
        "--format=ustar",
        "--numeric-owner",
    ]);
    tar.args(["--owner=0", "--group=0", "--mode=u+rwX,go+rX,go-w"]);
    tar.arg(format!("--mtime=@{epoch}"));
    // Without the name and time that gzip would note.
    tar.args(["--use-compress-program", "gzip --no-name --best"]);
    tar.arg("--directory").arg(dist).arg("--file").arg(&archive);
    output(tar.arg(&name))?;
    fs::remove_dir_all(root)?;
    let file = format!("{name}.tar.gz");
    let sum = output(Command::new("sha256sum").current_dir(dist).arg(&file))?;
    fs::write(dist.join(format!("{file}.sha256")), sum)?;
    Ok(archive)
}

/// The time of the commit, or what `SOURCE_DATE_EPOCH` says.
fn epoch() -> Result<String> {
    // An empty one is none, as from a container file that was given none.
    if let Some(epoch) = env::var("SOURCE_DATE_EPOCH")
        .ok()
        .filter(|it| !it.is_empty())
    {
        return Ok(epoch);
    }
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"])
        .current_dir(workspace());
    let epoch =
        output(&mut git).context("no commit to take the time from: set SOURCE_DATE_EPOCH")?;
    Ok(epoch.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_has_what_is_installed_and_is_the_same_whenever_it_is_packed() {
        let dir = env::temp_dir().join(format!("sni-router-dist-{}", std::process::id()));
        let packed = || -> Result<Vec<u8>> {
            let archive = pack(Path::new("/bin/true"), "1000000000", &dir)?;
            let list = output(Command::new("tar").arg("-tvf").arg(&archive))?;
            for (mode, name) in [
                ("-rwxr-xr-x 0/0", "/sni-router\n"),
                ("-rw-r--r-- 0/0", "/LICENSE-MIT\n"),
                ("-rw-r--r-- 0/0", "/deploy/kubernetes/daemonset.yaml\n"),
                (
                    "-rw-r--r-- 0/0",
                    "/deploy/helm/sni-router/crds/listeners.citrix.com.yaml\n",
                ),
                ("-rw-r--r-- 0/0", "/deploy/systemd/sni-router.service\n"),
            ] {
                let is_it = |line: &str| line.starts_with(mode) && line.ends_with(name);
                let found = list.split_inclusive('\n').any(is_it);
                assert!(found, "no {name} in {list}");
            }
            let mut check = Command::new("sha256sum");
            check.args(["--check", "--strict"]).current_dir(&dir);
            output(check.arg(archive.with_extension("gz.sha256")))?;
            Ok(fs::read(archive)?)
        };
        // What is packed is copied before, and so has another time.
        let (first, second) = (packed(), packed());
        fs::remove_dir_all(&dir).expect("remove it");
        assert!(first.expect("an archive") == second.expect("an archive"));
    }
}
