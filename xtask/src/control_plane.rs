//! The programs of a Kubernetes control plane, and those that render what is installed in one.
//!
//! They come from `KUBEBUILDER_ASSETS` where that is set, else they are built with Go, once, from the
//! modules that `tests/control-plane/go.mod` pins: no prebuilt binary is trusted.

use std::collections::VecDeque;
use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::command::{output, target_dir, workspace};
use crate::toolchain::find_program;

/// Names the directory of the programs, as elsewhere in the field.
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// The directory with all of [`PROGRAMS`]; builds what is missing in its own.
///
/// # Errors
///
/// There is no Go that can build them, or the build fails.
pub fn assets() -> Result<PathBuf> {
    if let Some(dir) = env::var_os(ASSETS) {
        return Ok(dir.into());
    }
    let (modules, dir) = (
        workspace().join(MODULES),
        target_dir().join("control-plane"),
    );
    let pinned = fs::read_to_string(modules.join("go.mod")).context(MODULES)?;
    // Go's own cache would answer too, but it may have been cleaned, and then takes its time.
    let stamp = dir.join("go.mod");
    let is_built = fs::read_to_string(&stamp).is_ok_and(|built| built == pinned);
    if is_built && PROGRAMS.iter().all(|(name, _)| dir.join(name).is_file()) {
        return Ok(dir);
    }
    check_go(&pinned)?;
    fs::create_dir_all(&dir)?;
    println!("  the first time this takes about ten minutes of two cores");
    for (name, package) in PROGRAMS {
        build(&modules, &pinned, package, &dir.join(name))?;
    }
    fs::write(stamp, pinned)?;
    Ok(dir)
}

/// Says in one line what is missing.
fn check_go(pinned: &str) -> Result<()> {
    let instead = format!(
        "install a newer one, or set {ASSETS} to a directory with kube-apiserver and etcd \
         (kustomize and helm may be on PATH)"
    );
    let wanted = line_of(pinned, "go ").context("no Go version in go.mod")?;
    if find_program("go").is_none() {
        bail!("kube-apiserver is built with Go {wanted}, and there is no Go: {instead}");
    }
    let found = output(Command::new("go").args(["env", "GOVERSION"]))?;
    let found = found.trim().trim_start_matches("go");
    if number(found) < number(wanted) {
        bail!(
            "kube-apiserver is built with Go {wanted}, and this is {found} (as Debian 12's own, \
             1.19, it is too old): {instead}"
        );
    }
    Ok(())
}

/// Builds one program, and says how far it is.
fn build(modules: &Path, pinned: &str, package: &str, to: &Path) -> Result<()> {
    let version = line_of(pinned, "k8s.io/kubernetes ").context("no Kubernetes in go.mod")?;
    let version = version.split(' ').next().unwrap_or_default();
    let part = |nth| {
        version
            .trim_start_matches('v')
            .split('.')
            .nth(nth)
            .unwrap_or_default()
    };
    let known_as = [("Version", version), ("Major", part(0)), ("Minor", part(1))]
        .map(|(part, value)| format!("-X k8s.io/component-base/version.git{part}={value}"));
    let mut command = Command::new("go");
    command.args([
        "build",
        "-v",
        "-trimpath",
        "-mod=readonly",
        "-buildvcs=false",
    ]);
    command.arg(format!("-ldflags=-s -w {}", known_as.join(" ")));
    command.arg("-o").arg(to).arg(package);
    command.current_dir(modules).envs([
        ("CGO_ENABLED", "0"),
        ("GOTOOLCHAIN", "local"),
        ("GOFLAGS", ""),
        ("GOWORK", "off"),
    ]);
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start go")?;
    let stderr = child.stderr.take().context("no pipe")?;
    let mut last = VecDeque::new();
    // With -v there is a line a package, and what is wrong.
    for (count, line) in (1..).zip(BufReader::new(stderr).lines()) {
        if count % PROGRESS == 0 {
            print!("\r  {package}: {count} packages");
            std::io::stdout().flush()?;
        }
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(line?);
    }
    println!("\r  {package} is built        ");
    if !child.wait()?.success() {
        let last: Vec<_> = last.into();
        bail!("go build {package} failed:\n{}", last.join("\n"));
    }
    Ok(())
}

/// What follows this word at the beginning of a line.
fn line_of<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let mut lines = text.lines();
    lines.find_map(|line| line.trim_start().strip_prefix(word))
}

/// `1.26.8` as numbers that can be compared; `1.27rc1` is before none of `1.27`.
fn number(version: &str) -> Vec<u32> {
    let parts = version.split(|c: char| !c.is_ascii_digit());
    parts.take(2).map_while(|part| part.parse().ok()).collect()
}

/// The programs, with the packages that they are built from.
const PROGRAMS: [(&str, &str); 4] = [
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    ("kustomize", "sigs.k8s.io/kustomize/kustomize/v5"),
    ("helm", "helm.sh/helm/v3/cmd/helm"),
];

const MODULES: &str = "tests/control-plane";
const PROGRESS: usize = 100;
const LAST_LINES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions_compare_by_their_numbers() {
        assert!(number("1.19.8") < number("1.25.0"));
        assert!(number("1.9") < number("1.25"));
        assert!(number("1.26.8") >= number("1.25.0"));
        assert!(number("1.27rc1") >= number("1.27.0"));
    }

    #[test]
    fn lines_are_found_by_their_first_word() {
        let text = "module x\n\ngo 1.25.0\n\trequire (\n\tk8s.io/kubernetes v1.35.4 // indirect\n";
        assert_eq!(line_of(text, "go "), Some("1.25.0"));
        let version = line_of(text, "k8s.io/kubernetes ");
        assert_eq!(version, Some("v1.35.4 // indirect"));
        assert_eq!(line_of(text, "toolchain "), None);
    }
}
