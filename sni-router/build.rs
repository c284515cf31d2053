//! Builds the kernel programs and leaves them at `OUT_DIR/sni-router-bpf`.
//!
//! Without a toolchain for them the file is empty: the crate still builds, and the loader says
//! that this router was built without BPF.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, Result, anyhow};
use aya_build::{Package, Toolchain};

use crate::toolchain::{ROUTE_VARIABLE, Route, bpf_linker};

#[path = "../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "xtask uses the rest")]
mod toolchain;

fn main() -> Result<()> {
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

/// aya-build's own switch; it would leave no file at all.
fn is_skipped() -> bool {
    env::var_os("AYA_BUILD_SKIP")
        .is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true"))
}

/// The name of the BPF crate's binary.
const OBJECT: &str = "sni-router-bpf";
