//! Against a real Kubernetes API server: `cargo xtask test-cluster`.

mod bench;
mod bursts;
mod clusters;
mod control_plane;
mod deploy;
mod differences;
mod gate;
mod installations;
mod leader;
mod manifests;
mod options;
mod outage;
mod plugins;
mod rights;
mod scale;
mod seed;
mod status;
mod town;
mod verdicts;
mod watches;
mod withheld;
