//! Where the programs of a control plane are.

use std::env;
use std::path::{Path, PathBuf};

/// The path of a program: `kube-apiserver`, `etcd`, `kustomize` or `helm`.
#[track_caller]
pub fn program(name: &str) -> PathBuf {
    let found = env::var_os(VARIABLE).map(|dir| Path::new(&dir).join(name));
    found.filter(|path| path.is_file()).unwrap_or_else(|| {
        panic!("no {name}: run `cargo xtask test-cluster`, which builds it and sets {VARIABLE}")
    })
}

/// Names the directory, as elsewhere in the field.
const VARIABLE: &str = "KUBEBUILDER_ASSETS";
