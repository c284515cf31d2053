//! Attaching `snir_tc` to interfaces.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use aya::Ebpf;
use aya::programs::tc::{self, NlOptions, SchedClassifierLinkId, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use sni_router_common::names;

use super::load::{LoadError, program};
use super::lock;

/// Where an interface's packets start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// With an Ethernet header.
    Ether,
    /// With the IP header.
    Ip,
}

impl Layer {
    const fn program(self) -> &'static str {
        match self {
            Self::Ether => names::PROG_TC_ETHER,
            Self::Ip => names::PROG_TC_IP,
        }
    }
}

/// Where the program can be attached. It stays attached as long as the [`Kernel`](super::Kernel)
/// lives, or the interface.
pub struct Hooks {
    ebpf: Arc<Mutex<Ebpf>>,
    /// What is attached, by the number of the interface.
    links: HashMap<u32, (Layer, SchedClassifierLinkId)>,
}

impl Hooks {
    pub(super) fn new(ebpf: Arc<Mutex<Ebpf>>) -> Self {
        Self {
            ebpf,
            links: HashMap::new(),
        }
    }

    /// Attaches the program where packets come in by this interface.
    ///
    /// First in the chain: what is ours has to be seen as it came, and what is not ours goes on to
    /// whoever is next. By TCX where the kernel has it (6.6), else by a filter of the first
    /// priority, in a clsact that may be there already.
    pub fn attach(&mut self, index: u32, name: &str, layer: Layer) -> Result<(), LoadError> {
        self.detach(index);
        let ebpf = &mut *lock(&self.ebpf);
        let program: &mut SchedClassifier = program(ebpf, layer.program())?;
        let has_tcx = KernelVersion::current().is_ok_and(|kernel| kernel >= TCX);
        let options = if has_tcx {
            TcAttachOptions::TcxOrder(LinkOrder::first())
        } else {
            // Fails where there is one, which is as good.
            let _ = tc::qdisc_add_clsact(name);
            TcAttachOptions::Netlink(NlOptions {
                priority: 1,
                ..NlOptions::default()
            })
        };
        let link = program
            .attach_with_options(name, TcAttachType::Ingress, options)
            .map_err(LoadError::Program)?;
        self.links.insert(index, (layer, link));
        Ok(())
    }

    /// Lets go of an interface: it has gone, perhaps into another network namespace, where the
    /// program would still run.
    pub fn detach(&mut self, index: u32) {
        let Some((layer, link)) = self.links.remove(&index) else {
            return;
        };
        let ebpf = &mut *lock(&self.ebpf);
        if let Ok(program) = program::<SchedClassifier>(ebpf, layer.program()) {
            // Fails where the interface took it along.
            let _ = program.detach(link);
        }
    }
}

/// The kernel that brought TCX.
const TCX: KernelVersion = KernelVersion::new(6, 6, 0);
