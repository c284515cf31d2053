//! Where the programs of a control plane are.

use std::env;
use std::path::PathBuf;

/// The path of a program, in `$KUBEBUILDER_ASSETS` or on `$PATH`: `kube-apiserver`, `etcd`,
/// `kustomize` or `helm`.
#[track_caller]
pub fn program(name: &str) -> PathBuf {
    let assets = env::var_os(VARIABLE).map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let mut found = assets
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|dir| dir.join(name));
    found.find(|path| path.is_file()).unwrap_or_else(|| {
        panic!("no {name}: run `cargo xtask test-cluster`, which builds it and sets {VARIABLE}")
    })
}

/// Names the directory, as elsewhere in the field.
const VARIABLE: &str = "KUBEBUILDER_ASSETS";
