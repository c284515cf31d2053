//! Against a real Kubernetes API server: `cargo xtask test-cluster`.

mod control_plane;
mod differences;
mod manifests;
mod verdicts;
