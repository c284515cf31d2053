//! Against a real Kubernetes API server: `cargo xtask test-cluster`.

mod control_plane;
mod deploy;
mod differences;
mod manifests;
mod options;
mod rights;
mod verdicts;
