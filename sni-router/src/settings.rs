//! What an operator can set.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sni_router_core::manifest::Options;

use crate::datapath::choose::{Choice, TcPorts};
use crate::observe::admin::{AdminAddr, Token};
use crate::observe::log::{AccessFile, Filter};
use crate::proxy::settings::Settings as ProxySettings;
use crate::source::kubernetes;
use crate::takeover::PinDir;

/// Everything an operator can set.
pub struct Settings {
    /// Where the manifests are.
    pub manifests: Manifests,
    /// What shall carry connections.
    pub datapath: Choice,
    /// Ports towards endpoints that the `tc` datapath may use, and nobody else does.
    pub tc_ports: TcPorts,
    /// Where what outlives this process is pinned, for the `tc` datapath.
    pub pins: PinDir,
    /// Whether the router before this one is left to end by itself.
    pub spare_predecessor: bool,
    /// Whether VIPs that no interface has get a local route.
    pub claim_vips: bool,
    /// How manifests are read.
    pub options: Options,
    /// Where the admin API is served.
    pub admin: Vec<AdminAddr>,
    /// Whether one of those is nobody's wish: without it, the router runs as well.
    pub is_admin_default: bool,
    /// What calls over TCP need that change something.
    pub admin_token: Option<Token>,
    /// What is logged.
    pub log: Filter,
    /// Where access lines go, if not to standard error.
    pub access_file: Option<Arc<AccessFile>>,
    /// Whose connections are refused.
    pub deny_file: Option<PathBuf>,
    /// Worker threads, at least one.
    pub workers: usize,
    /// How long connections may take to finish at the end.
    pub drain_timeout: Duration,
    /// Settings of the connection path.
    pub proxy: ProxySettings,
}

/// Where manifests are.
pub enum Manifests {
    /// In files.
    Directory(PathBuf),
    /// Behind API servers.
    Kubernetes(Box<kubernetes::Settings>),
}

impl fmt::Display for Manifests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "the directory {}", path.display()),
            Self::Kubernetes(_) => f.write_str("Kubernetes"),
        }
    }
}
