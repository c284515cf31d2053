//! Where configuration comes from: snapshots of manifests, and addresses of external names.

pub mod directory;
pub mod dns;
mod fingerprint;
pub mod read;
mod watcher;
