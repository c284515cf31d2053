//! What the project needs beyond cargo, and how to get it.

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::cargo;
use crate::toolchain::{LINKER_VERSION, Route, find_program, linker_llvm};

/// The LLVM versions that bpf-linker can be built with.
const LINKER_LLVMS: std::ops::RangeInclusive<u32> = 21..=23;

/// Programs of the tests and the demo, with the Debian packages they are in.
const PROGRAMS: [(&str, &str); 7] = [
    ("conntrack", "conntrack"),
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("openssl", "openssl"),
    ("setpriv", "util-linux"),
    ("systemd-analyze", "systemd"),
];

/// Components of the toolchain that builds for the host, with a program in each.
const COMPONENTS: [(&str, &str); 2] = [("clippy", "cargo-clippy"), ("rustfmt", "rustfmt")];

/// Something that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// A program.
    Program {
        /// Its name.
        name: &'static str,
        /// The Debian package it is in.
        package: &'static str,
    },
    /// A component of the toolchain that builds for the host: `clippy`, `rustfmt`.
    Component(&'static str),
    /// rustup's nightly with rust-src, and its clippy.
    Nightly,
    /// Debian's rustc with `core` for BPF, and its clippy.
    DebianRustc,
    /// The name by which rustup knows Debian's rustc.
    Link,
    /// bpf-linker, built with this LLVM; `None` while the compiler is missing that decides it.
    Linker {
        /// The major version.
        llvm: Option<u32>,
    },
}

impl Need {
    /// Whether it is bpf-linker, which comes last.
    pub fn is_linker(&self) -> bool {
        matches!(self, Self::Linker { .. })
    }

    /// The Debian packages that bring it, or that its [`Need::command`] needs.
    pub fn packages(&self) -> Vec<String> {
        match self {
            Self::Program { package, .. } => vec![(*package).to_owned()],
            Self::DebianRustc => DEBIAN_RUSTC.map(str::to_owned).to_vec(),
            Self::Linker { llvm: Some(llvm) } => llvm_packages(*llvm),
            Self::Component(_) | Self::Nightly | Self::Link | Self::Linker { llvm: None } => vec![],
        }
    }

    /// The command that brings it, after its packages; `None` where those are all, or where it is
    /// not known yet.
    pub fn command(&self) -> Option<Command> {
        match self {
            Self::Program { .. } | Self::DebianRustc | Self::Linker { llvm: None } => None,
            Self::Component(name) => Some(rustup(&["component", "add", name])),
            // A nightly that is here is only completed: updating it is not ours to decide.
            Self::Nightly if Route::Nightly.rustc().is_some() => Some(rustup(&NIGHTLY_PARTS)),
            Self::Nightly => Some(rustup(&NIGHTLY)),
            Self::Link => Some(rustup(&LINK)),
            Self::Linker { llvm: Some(llvm) } => {
                let mut command = cargo();
                command.args(["install", "bpf-linker", "--locked", "--force", "--quiet"]);
                command.args(["--version", LINKER_VERSION, "--no-default-features"]);
                command.arg(format!("--features=llvm-{llvm}"));
                // Without it the link fails: unable to find library -lLLVM.
                command.env("LLVM_PREFIX", llvm_prefix(*llvm));
                Some(command)
            }
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program { name, package } => write!(f, "the program {name} ({package})"),
            Self::Component(name) => write!(f, "{name}: rustup component add {name}"),
            Self::Nightly => write!(
                f,
                "rustup's nightly with rust-src: rustup {}",
                NIGHTLY.join(" ")
            ),
            Self::DebianRustc => f.write_str(
                "a rustc with `core` for the BPF target below /usr (Debian: rustc-web), or \
                 rustup's nightly with rust-src: rustup toolchain install nightly --component \
                 rust-src,clippy",
            ),
            Self::Link => write!(f, "its name in rustup: rustup {}", LINK.join(" ")),
            Self::Linker { llvm } => {
                let llvm = llvm.map_or_else(|| "N".to_owned(), |llvm| llvm.to_string());
                write!(
                    f,
                    "bpf-linker, with LLVM N of the rustc that compiles the BPF crate (`LLVM \
                     version` in `rustc -vV`; here {llvm}) and its development files: \
                     LLVM_PREFIX=<where LLVM is> cargo install bpf-linker --locked --version \
                     {LINKER_VERSION} --no-default-features --features llvm-{llvm}"
                )
            }
        }
    }
}

/// Programs that are missing, whatever the route.
pub fn programs() -> Vec<Need> {
    let programs = PROGRAMS.into_iter();
    let programs = programs.filter(|(name, _)| !is_here(name));
    let components = COMPONENTS.into_iter();
    let components = components.filter(|(_, program)| !has_component(program));
    programs
        .map(|(name, package)| Need::Program { name, package })
        .chain(components.map(|(name, _)| Need::Component(name)))
        .collect()
}

/// All it takes to have the compiler of a route, and its clippy.
pub fn compiler(route: Route) -> Vec<Need> {
    match route {
        Route::Nightly => vec![Need::Nightly],
        Route::Bpf => vec![Need::DebianRustc, Need::Link],
    }
}

/// Whether the toolchain of a route has clippy, for the lints of the BPF crate.
pub fn has_clippy(route: Route) -> bool {
    let rustc = route.rustc();
    rustc.is_some_and(|rustc| rustc.with_file_name("cargo-clippy").is_file())
}

/// The linker, unless the one that is here fits the compiler of a route.
pub fn fitting_linker(route: Route) -> Option<Need> {
    let llvm = route.llvm();
    let fits = llvm.is_some() && linker_llvm() == llvm;
    (!fits).then_some(Need::Linker { llvm })
}

/// The linker that fits this route's compiler.
///
/// # Errors
///
/// No bpf-linker can be built for that compiler.
pub fn linker(route: Route) -> Result<Need> {
    let name = route.toolchain();
    let llvm = route
        .llvm()
        .with_context(|| format!("no LLVM version in rustc +{name} -vV"))?;
    if !linker_takes(llvm) {
        bail!(
            "the {name} toolchain has LLVM {llvm}, bpf-linker {LINKER_VERSION} takes {} to {}",
            LINKER_LLVMS.start(),
            LINKER_LLVMS.end()
        );
    }
    Ok(Need::Linker { llvm: Some(llvm) })
}

/// Whether bpf-linker can be built with this LLVM.
pub fn linker_takes(llvm: u32) -> bool {
    LINKER_LLVMS.contains(&llvm)
}

/// What bpf-linker is linked with.
pub fn llvm_packages(llvm: u32) -> Vec<String> {
    vec![format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")]
}

fn llvm_prefix(llvm: u32) -> String {
    format!("/usr/lib/llvm-{llvm}")
}

const DEBIAN_RUSTC: [&str; 4] = [
    "rustc-web",
    "cargo-web",
    "libstd-rust-web-dev-bpf",
    "rust-web-clippy",
];
const NIGHTLY: [&str; 6] = [
    "toolchain",
    "install",
    "nightly",
    "--profile=minimal",
    "--component=rust-src",
    "--component=clippy",
];
const NIGHTLY_PARTS: [&str; 5] = [
    "component",
    "add",
    "--toolchain=nightly",
    "rust-src",
    "clippy",
];
const LINK: [&str; 4] = ["toolchain", "link", "bpf", "/usr"];

fn rustup(args: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(args);
    command
}

/// Whether there is a program, also one that only root has on `PATH`: it is root who runs it.
fn is_here(program: &str) -> bool {
    find_program(program).is_some() || Path::new("/usr/sbin").join(program).is_file()
}

/// Whether the active toolchain has a program. rustup's own stand-ins for it are always there, so
/// looking on `PATH` would not do.
fn has_component(program: &str) -> bool {
    let which = rustup(&["which", program]).output();
    which.is_ok_and(|output| output.status.success())
}
