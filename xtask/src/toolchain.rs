//! Which toolchain compiles the BPF crate. One rule, used by xtask and, by path, by sni-router's
//! build script; hence only the standard library.
//!
//! Two routes lead to a `core` for the BPF target: a rustup nightly with rust-src, which builds
//! it (the usual aya route), or Debian's rustc, which ships it, linked into rustup as `bpf`.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Names the route instead of letting [`Route::choose`] find it: `nightly` or `bpf`.
pub const ROUTE_VARIABLE: &str = "SNI_ROUTER_BPF_TOOLCHAIN";

/// A way to compile the BPF crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// rustup's nightly builds `core` from rust-src.
    Nightly,
    /// A stable rustc that ships `core` for the BPF target, known to rustup as `bpf`.
    Bpf,
}

impl Route {
    /// The route to take: the one the environment asks for, else nightly where it is ready,
    /// else `bpf`. Whether it is ready is another question: [`Route::is_ready`].
    ///
    /// # Errors
    ///
    /// The environment names something that is no route; the text says what it may name.
    pub fn choose() -> Result<Self, String> {
        match env::var_os(ROUTE_VARIABLE).as_deref().map(OsStr::as_encoded_bytes) {
            None | Some(b"") => Ok(match Self::Nightly.is_ready() {
                true => Self::Nightly,
                false => Self::Bpf,
            }),
            Some(b"nightly") => Ok(Self::Nightly),
            Some(b"bpf") => Ok(Self::Bpf),
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

    /// The toolchain's rustc, or `None` where rustup does not know the toolchain.
    pub fn rustc(self) -> Option<PathBuf> {
        // `which` does not install what is missing, and is ten times faster than `run`.
        let output = Command::new("rustup")
            .args(["which", "--toolchain", self.toolchain(), "rustc"])
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let path = String::from_utf8(output.stdout).ok()?;
        (output.status.success()).then(|| PathBuf::from(path.trim_end()))
    }

    /// Whether the toolchain is there and has, or can build, `core` for the BPF target.
    pub fn is_ready(self) -> bool {
        let Some(rustlib) = self.rustc().and_then(|rustc| rustlib(&rustc)) else {
            return false;
        };
        match self {
            Self::Nightly => rustlib.join("src/rust/library/core/Cargo.toml").exists(),
            Self::Bpf => has_core(&rustlib.join(BPF_TARGET).join("lib")),
        }
    }
}

/// Where the linker is that both routes need, or `None`.
pub fn bpf_linker() -> Option<PathBuf> {
    find_program("bpf-linker")
}

/// The first program of this name on `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// The target of the BPF crate: its byte order is this machine's.
pub const BPF_TARGET: &str =
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };

/// `SYSROOT/bin/rustc` → `SYSROOT/lib/rustlib`.
fn rustlib(rustc: &Path) -> Option<PathBuf> {
    Some(rustc.parent()?.parent()?.join("lib/rustlib"))
}

fn has_core(dir: &Path) -> bool {
    dir.read_dir().is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libcore-") && name.ends_with(".rlib")
        })
    })
}
