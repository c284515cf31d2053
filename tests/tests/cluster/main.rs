//! Against a real Kubernetes API server: `cargo xtask test-cluster`.

mod bench;
mod clusters;
mod control_plane;
mod deploy;
mod differences;
mod gate;
mod leader;
mod manifests;
mod options;
mod outage;
mod rights;
mod scale;
mod seed;
mod status;
mod town;
mod verdicts;
mod watches;
