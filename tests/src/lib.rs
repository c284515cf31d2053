//! The lab: network namespaces, manifests, servers and clients around a real `sni-router` process.
//!
//! - [`netns`] is one network namespace, [`topology`] the client – router – backends layout of them.
//! - [`bpffs`] is a BPF file system, for routers that pin.
//! - [`site`] writes the Kubernetes manifests a router is started on.
//! - [`daemon`] runs the `sni-router` binary, reads its access log ([`access`]) and its admin API.
//! - [`raw`] speaks plain TCP behind a real ClientHello, so that every byte and every way of
//!   ending can be checked; [`bulk`] makes and checks long streams.
//! - [`object`] is the kernel programs inside that binary, [`packet`] makes packets for them.
//! - [`intruder`] sends such packets to the router as if from somebody else, and [`position`] tells which
//!   sequence numbers would be right.
//! - [`linux`] is the kernel that runs: older ones can less.
//! - [`tls`] holds real TLS servers and clients: rustls, `openssl s_client` and curl.
//! - [`wire`] impairs packets on their way; [`ways`] compares the way through the router with the
//!   direct one.
//! - [`openmetrics`] reads what `/metrics` answers, [`documented`] what docs/metrics.md says of it.
//! - [`monitoring`] is the dashboard for Grafana, and promtool.
//! - [`rig`] puts them together for the tests.
//! - [`cluster`] is a real Kubernetes control plane, for the tests of `cargo xtask test-cluster`.
//!
//! The helpers panic, with the reason, where a test cannot go on: every one of their failures is
//! the failure of a test. Everything they make is undone when it is dropped, and what a killed run
//! left behind is swept by the next one.
#![warn(missing_docs)]

pub mod access;
pub mod admin;
pub mod bpffs;
pub mod bulk;
pub mod cluster;
pub mod daemon;
pub mod documented;
pub mod intruder;
pub mod linux;
pub mod monitoring;
pub mod netns;
pub mod object;
pub mod openmetrics;
pub mod packet;
pub mod position;
pub mod raw;
pub mod rig;
pub mod server;
pub mod site;
pub mod tls;
pub mod topology;
pub mod wait;
pub mod ways;
pub mod wire;
