//! What the checks look at, gathered once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use sni_router_core::manifest::Build;
use sni_router_core::plan::Plan;
use sni_router_core::problem::Severity;
use sni_router_core::table::RouteTable;
use tokio::time::timeout;

use super::finding::{Finding, Level};
use super::host::Host;
use super::ipsec::outgoing;
use super::network::Network;
use super::others::Hooked;
use crate::datapath::bpf::{LoadError, PinError, Survey, Taken, probe, program_names, survey};
use crate::datapath::choose::{Choice, ChooseError, TcPorts, check_source};
use crate::sys::query::{Hook, attached};
use crate::takeover::PinDir;

/// What the router will be told: the flags of `run` that matter to the host.
pub struct Wanted {
    /// What shall carry connections.
    pub datapath: Choice,
    /// Ports and addresses towards endpoints.
    pub ports: TcPorts,
    /// Where what outlives the router is pinned.
    pub pins: PinDir,
    /// Whether VIPs that no interface has are claimed.
    pub claim_vips: bool,
}

impl Wanted {
    /// Whether kernel programs are loaded at all.
    pub(super) fn uses_bpf(&self) -> bool {
        self.datapath != Choice::Userspace
    }

    /// Whether the `tc` datapath is to be had.
    pub(super) fn uses_tc(&self) -> bool {
        matches!(self.datapath, Choice::Auto | Choice::Tc)
    }

    /// How bad it is if there is no `tc` datapath: the router starts without only if it may choose.
    pub(super) fn without_tc(&self) -> Level {
        match self.datapath {
            Choice::Tc => Level::Error,
            Choice::Auto | Choice::Sockmap | Choice::Userspace => Level::Warning,
        }
    }

    /// How bad it is if there are no kernel programs.
    pub(super) fn without_bpf(&self) -> Level {
        match self.datapath {
            Choice::Tc | Choice::Sockmap => Level::Error,
            Choice::Auto | Choice::Userspace => Level::Warning,
        }
    }

    /// How bad it is if nothing can be pinned.
    pub(super) fn without_pins(&self) -> Level {
        match self.pins {
            PinDir::Demanded(_) => Level::Error,
            PinDir::Preferred(_) | PinDir::Nowhere => Level::Warning,
        }
    }
}

/// What the manifests ask of the host.
pub struct Site {
    /// Addresses of listeners.
    pub plan: Plan,
    /// Addresses of endpoints, as far as DNS is not needed for them.
    pub endpoints: BTreeSet<IpAddr>,
    /// How many errors there are in the manifests.
    pub errors: usize,
}

impl Site {
    /// Of manifests that were read.
    pub fn of(build: &Build) -> Self {
        let routes = build.model.listeners.iter().flat_map(|it| &it.routes);
        let endpoints = routes.flat_map(|route| route.backend.endpoints.iter().flatten());
        Self {
            plan: Plan::of(&RouteTable::compile(&build.model, 0, None)),
            endpoints: endpoints.map(|endpoint| endpoint.ip()).collect(),
            errors: build.count(Severity::Error),
        }
    }
}

/// See the module.
pub struct Facts {
    /// Files of the kernel.
    pub host: Host,
    /// What the router will be told.
    pub wanted: Wanted,
    /// Interfaces, addresses and routes, or why they are not known.
    pub network: Result<Network, String>,
    /// Whether the kernel takes the programs; `None` where none are wanted.
    pub programs: Option<Result<Taken, LoadError>>,
    /// What is attached where ours are; `None` where none are wanted.
    pub hooked: Option<Hooked>,
    /// What is pinned; `None` where nothing is to be.
    pub pins: Option<Result<Survey, PinError>>,
    /// How many IPsec policies there are for what leaves.
    pub policies: io::Result<u32>,
    /// Each `--tc-source`, and why it cannot be one.
    pub sources: Vec<(IpAddr, Result<(), ChooseError>)>,
    /// What the manifests ask for, or why they cannot be read; `None` where none were named.
    pub site: Option<Result<Site, String>>,
}

impl Facts {
    /// Looks at this host. Changes nothing: programs are loaded without being attached, and are gone
    /// when this returns. Must be called on a tokio runtime.
    pub async fn gather(wanted: Wanted, site: Option<Result<Site, String>>) -> Self {
        let mut addresses = BTreeSet::new();
        if let Some(Ok(site)) = &site {
            addresses.extend(&site.plan.vips);
            addresses.extend(&site.endpoints);
        }
        let network = match timeout(PATIENCE, Network::ask(&addresses)).await {
            Ok(asked) => asked.map_err(|error| format!("netlink: {error}")),
            Err(_) => Err("netlink does not answer".to_owned()),
        };
        let hooked = wanted
            .uses_bpf()
            .then(|| Hooked::ask(network.as_ref().ok()));
        let pins = match &wanted.pins {
            PinDir::Preferred(dir) | PinDir::Demanded(dir) if wanted.uses_tc() => Some(survey(dir)),
            _ => None,
        };
        let sources = wanted.ports.sources.iter();
        let host = Host::real();
        Self {
            policies: outgoing(&host),
            host,
            network,
            programs: wanted.uses_bpf().then(probe),
            hooked,
            pins,
            sources: sources
                .map(|source| (*source, check_source(*source)))
                .collect(),
            site,
            wanted,
        }
    }

    /// The network; where it is not known, there is nothing to look at.
    pub(super) fn network(&self) -> Result<&Network, Finding> {
        self.network
            .as_ref()
            .map_err(|why| Finding::unknown(format!("the network is not known: {why}")))
    }

    /// What the manifests ask for; `None` also where they cannot be read, which `manifests` tells.
    pub(super) fn site(&self) -> Option<&Site> {
        self.site.as_ref()?.as_ref().ok()
    }

    /// Whether connections are steered to the router before sockets are looked for; `None` where
    /// that was not tried.
    pub(super) fn is_steered(&self) -> Option<bool> {
        match &self.programs {
            None => Some(false),
            Some(Err(LoadError::Capability(_))) => None,
            Some(loaded) => Some(loaded.is_ok()),
        }
    }

    /// The lowest port of a listener.
    pub(super) fn lowest_port(&self) -> Option<u16> {
        self.site()?.plan.bind.iter().map(|addr| addr.port()).min()
    }
}

impl Hooked {
    fn ask(network: Option<&Network>) -> Self {
        let lookup = File::open("/proc/self/ns/net")
            .and_then(|netns| attached(Hook::SkLookup(netns.as_fd())));
        let mut tcx = Ok(BTreeMap::new());
        for link in network.into_iter().flat_map(Network::others) {
            tcx = tcx.and_then(|mut chains: BTreeMap<_, _>| {
                chains.insert(link.index, chain(link.index)?);
                Ok(chains)
            });
        }
        Self {
            tcx,
            lookup,
            names: program_names(),
        }
    }
}

/// Of a kernel without TCX none, and of an interface that has gone meanwhile.
fn chain(interface: u32) -> io::Result<Vec<u32>> {
    match attached(Hook::TcxIngress(interface)) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENODEV)) => {
            Ok(Vec::new())
        }
        other => other,
    }
}

/// Tens of thousands of endpoints are asked for one by one.
const PATIENCE: Duration = Duration::from_secs(30);
