//! Which toolchain compiles the BPF crate. One rule, used by xtask and, by path, by sni-router's
//! build script; hence only the standard library.
//!
//! Two routes lead to a `core` for the BPF target: a rustup nightly with rust-src, which builds
//! it (the usual aya route), or Debian's rustc, which ships it, linked into rustup as `bpf`.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Names the route instead of letting [`Route::choose`] find it: `nightly` or `bpf`.
pub const ROUTE_VARIABLE: &str = "SNI_ROUTER_BPF_TOOLCHAIN";

/// The bpf-linker that is known to work with the aya-build in use.
pub const LINKER_VERSION: &str = "0.13.0";

/// The target of the BPF crate: its byte order is this machine's.
pub const BPF_TARGET: &str = if cfg!(target_endian = "big") {
    "bpfeb-unknown-none"
} else {
    "bpfel-unknown-none"
};

/// A way to compile the BPF crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// rustup's nightly builds `core` from rust-src.
    Nightly,
    /// A stable rustc that ships `core` for the BPF target, known to rustup as `bpf`.
    Bpf,
}

impl Route {
    /// The route to take: the one the environment asks for, else the first that is ready, nightly
    /// before `bpf`. `None` where neither is ready.
    ///
    /// # Errors
    ///
    /// The environment names something that is no route; the text says what it may name.
    pub fn choose() -> Result<Option<Self>, String> {
        let candidates = match Self::forced()? {
            Some(route) => vec![route],
            None => vec![Self::Nightly, Self::Bpf],
        };
        Ok(candidates.into_iter().find(|route| route.is_ready()))
    }

    /// The route that the environment asks for.
    ///
    /// # Errors
    ///
    /// As [`Route::choose`].
    pub fn forced() -> Result<Option<Self>, String> {
        let value = env::var_os(ROUTE_VARIABLE);
        match value.as_deref().map(OsStr::as_encoded_bytes) {
            None | Some(b"") => Ok(None),
            Some(b"nightly") => Ok(Some(Self::Nightly)),
            Some(b"bpf") => Ok(Some(Self::Bpf)),
            Some(other) => Err(format!(
                "{ROUTE_VARIABLE}={} is not a toolchain: write nightly or bpf",
                String::from_utf8_lossy(other)
            )),
        }
    }

    /// What rustup calls the toolchain.
    pub fn toolchain(self) -> &'static str {
        match self {
            Self::Nightly => "nightly",
            Self::Bpf => "bpf",
        }
    }

    /// Whether the BPF crate can be built this way: the toolchain has, or can build, `core` for
    /// the BPF target, and bpf-linker reads the bitcode that its rustc writes.
    pub fn is_ready(self) -> bool {
        self.has_core() && self.llvm().is_some_and(|llvm| linker_llvm() == Some(llvm))
    }

    /// Whether the toolchain is there and has, or can build, `core` for the BPF target.
    pub fn has_core(self) -> bool {
        let Some(rustlib) = self.rustc().and_then(|rustc| rustlib(&rustc)) else {
            return false;
        };
        match self {
            Self::Nightly => rustlib.join("src/rust/library/core/Cargo.toml").exists(),
            Self::Bpf => ships_core(&rustlib),
        }
    }

    /// The toolchain's rustc, or `None` where rustup does not know the toolchain.
    pub fn rustc(self) -> Option<PathBuf> {
        // `which` does not install what is missing, and is ten times faster than `run`.
        let args = ["which", "--toolchain", self.toolchain(), "rustc"];
        output("rustup".as_ref(), &args).map(|path| PathBuf::from(path.trim_end()))
    }

    /// The major version of the LLVM in the toolchain's rustc.
    pub fn llvm(self) -> Option<u32> {
        llvm_of(&self.rustc()?)
    }
}

/// The major version of the LLVM in a rustc.
fn llvm_of(rustc: &Path) -> Option<u32> {
    let text = output(rustc.as_os_str(), &["-vV"])?;
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

/// Whether a `lib/rustlib` has the `core` of the BPF target.
fn ships_core(rustlib: &Path) -> bool {
    let entries = rustlib.join(BPF_TARGET).join("lib").read_dir();
    entries.is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libcore-") && name.ends_with(".rlib")
        })
    })
}

/// The major version of the LLVM that bpf-linker was built with, or `None` where there is no
/// bpf-linker of the right version, or it does not start.
pub fn linker_llvm() -> Option<u32> {
    // It fails to start when the shared LLVM that it was linked with is gone.
    let version = output(bpf_linker()?.as_os_str(), &["--version"])?;
    if version.trim_end() != format!("bpf-linker {LINKER_VERSION}") {
        return None;
    }
    // The program does not tell its LLVM; cargo noted the features it was installed with.
    recorded_llvm(&fs::read_to_string(cargo_home()?.join(".crates2.json")).ok()?)
}

/// Where the linker is that both routes need, or `None`.
pub fn bpf_linker() -> Option<PathBuf> {
    find_program("bpf-linker")
}

/// The first program of this name on `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

fn cargo_home() -> Option<PathBuf> {
    match env::var_os("CARGO_HOME") {
        Some(home) => Some(home.into()),
        None => Some(env::home_dir()?.join(".cargo")),
    }
}

/// The `llvm-N` among the features of the installed bpf-linker, in cargo's list of what
/// `cargo install` has installed. The file is one line of JSON in a fixed order: `features` comes
/// before the next package.
fn recorded_llvm(crates: &str) -> Option<u32> {
    let (_, entry) = crates.split_once(&format!("\"bpf-linker {LINKER_VERSION} ("))?;
    let (_, features) = entry.split_once("\"features\":[")?;
    let (features, _) = features.split_once(']')?;
    features.split(',').find_map(|feature| {
        feature
            .trim_matches('"')
            .strip_prefix("llvm-")?
            .parse()
            .ok()
    })
}

/// `SYSROOT/bin/rustc` → `SYSROOT/lib/rustlib`.
fn rustlib(rustc: &Path) -> Option<PathBuf> {
    Some(rustc.parent()?.parent()?.join("lib/rustlib"))
}

fn output(program: &OsStr, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_of_the_linker_is_read_from_its_features() {
        let crates = concat!(
            r#"{"installs":{"a 1.0.0 (registry)":{"features":["llvm-19"]},"#,
            r#""bpf-linker 0.13.0 (registry)":{"bins":["bpf-linker"],"features":["x","llvm-22"]},"#,
            r#""z 1.0.0 (registry)":{"features":["llvm-20"]}}}"#
        );
        assert_eq!(recorded_llvm(crates), Some(22));
    }

    #[test]
    fn llvm_of_the_linker_is_unknown_when_it_has_default_features_or_another_version() {
        let default = r#"{"bpf-linker 0.13.0 (r)":{"features":[]},"z":{"features":["llvm-20"]}}"#;
        assert_eq!(recorded_llvm(default), None);
        assert_eq!(recorded_llvm(&default.replace("0.13.0", "0.12.0")), None);
    }
}
