//! Builds the kernel programs and leaves them at `OUT_DIR/sni-router-bpf`.
//!
//! Without a toolchain for them the file is empty: the crate still builds, and the loader says
//! that this router was built without BPF.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, anyhow};
use aya_build::{Package, Toolchain};

use crate::toolchain::{ROUTE_VARIABLE, Route, bpf_linker};

#[path = "../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "xtask uses the rest")]
mod toolchain;

fn main() -> Result<()> {
    if env::var_os(WRAPPER).is_some() {
        return compile();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("no workspace around")?;
    println!("cargo:rerun-if-env-changed={ROUTE_VARIABLE}");
    println!("cargo:rerun-if-env-changed=AYA_BUILD_SKIP");
    println!("cargo:rerun-if-changed=build.rs");
    // aya-build adds the BPF crate itself.
    for source in ["sni-router-common", "Cargo.toml", "xtask/src/toolchain.rs"] {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }

    let object = PathBuf::from(env::var_os("OUT_DIR").context("no OUT_DIR")?).join(OBJECT);
    if is_skipped() {
        println!("cargo:warning=building without BPF: AYA_BUILD_SKIP is set");
        return Ok(fs::write(object, [])?);
    }
    // A path that does not exist counts as changed, so that the next build notices what setup has
    // installed meanwhile.
    let linker = bpf_linker().unwrap_or_else(|| "none".into());
    println!("cargo:rerun-if-changed={}", linker.display());
    let Some(route) = Route::choose().map_err(|error| anyhow!(error))? else {
        println!("cargo:rerun-if-changed=none");
        println!(
            "cargo:warning=building without BPF: no toolchain for it, or no bpf-linker that fits; \
             `cargo xtask setup` installs them"
        );
        return Ok(fs::write(object, [])?);
    };
    // aya-build takes no options for the compiler, and takes others' away.
    #[allow(unsafe_code, reason = "the environment is the way to tell cargo")]
    // SAFETY: there is one thread.
    unsafe {
        env::set_var("RUSTC_WRAPPER", env::current_exe()?);
        env::set_var(WRAPPER, "yes");
    }
    let crate_dir = root.join("sni-router-ebpf");
    aya_build::build_ebpf(
        [Package {
            name: "sni-router-ebpf",
            root_dir: crate_dir
                .to_str()
                .context("the path of the workspace is not UTF-8")?,
            ..Package::default()
        }],
        Toolchain::Custom(route.toolchain()),
    )
}

/// What cargo runs in the place of the compiler: that with one option more, where it compiles for BPF.
fn compile() -> Result<()> {
    let mut args = env::args_os().skip(1);
    let mut rustc = Command::new(args.next().context("no compiler to run")?);
    let args: Vec<_> = args.collect();
    let is_bpf = |arg: &OsString| arg.to_string_lossy().starts_with(TARGET);
    if args.iter().any(is_bpf) {
        rustc.arg(CPU);
    }
    Err(rustc.args(args).exec()).context("cannot run the compiler")
}

/// aya-build's own switch; it would leave no file at all.
fn is_skipped() -> bool {
    env::var_os("AYA_BUILD_SKIP")
        .is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true"))
}

/// Tells this program what it is run as.
const WRAPPER: &str = "SNI_ROUTER_BUILD_AS_WRAPPER";

/// What aya-build builds for, whatever the byte order.
const TARGET: &str = "bpfe";

/// Arithmetic and jumps of 32 bits, since Linux 5.1: without them, each number of 32 bits is shifted to and fro before
/// it is used.
const CPU: &str = "-Ctarget-cpu=v3";

/// The name of the BPF crate's binary.
const OBJECT: &str = "sni-router-bpf";
