//! Attaching `snir_tc` to interfaces.

use std::fs;
use std::mem;
use std::path::Path;
use std::sync::{Arc, Mutex};

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use sni_router_common::names;
use tracing::debug;

use super::load::{LoadError, program};
use super::lock;
use super::pins::Pins;

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
/// lives, or the interface; with pins, as long as those are there.
pub struct Hooks {
    ebpf: Arc<Mutex<Ebpf>>,
    pins: Option<Arc<Pins>>,
}

impl Hooks {
    pub(super) fn new(ebpf: Arc<Mutex<Ebpf>>, pins: Option<Arc<Pins>>) -> Self {
        Self { ebpf, pins }
    }

    /// Attaches the program where packets come in by the interface with this name and number.
    ///
    /// First in the chain: what is ours has to be seen as it came, and what is not ours goes on to
    /// whoever is next. By TCX where the kernel has it (6.6), else by a filter of the first
    /// priority, in a clsact that may be there already.
    pub fn attach(&self, interface: &str, index: u32, layer: Layer) -> Result<(), LoadError> {
        if self.pins.as_ref().is_some_and(|pins| !pins.is_owned()) {
            // Another router's business.
            return Ok(());
        }
        let ebpf = &mut *lock(&self.ebpf);
        let program: &mut SchedClassifier = program(ebpf, layer.program())?;
        if !KernelVersion::current().is_ok_and(|kernel| kernel >= TCX) {
            return filter(program, interface, self.pins.is_some());
        }
        let pin = self.pins.as_ref().map(|pins| pins.link(index));
        if let Some(pin) = pin.as_deref().filter(|pin| pin.exists()) {
            // The one program follows the other between two packets.
            let Err(error) = replace(program, pin) else {
                return Ok(());
            };
            debug!(interface, %error, "the link is of another interface, or has lost it");
            // Without it there is nothing to attach to either, which the next step says.
            let _ = fs::remove_file(pin);
        }
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program
            .attach_with_options(interface, TcAttachType::Ingress, order)
            .map_err(LoadError::Program)?;
        let Some(pin) = pin else { return Ok(()) };
        let link = program.take_link(id).map_err(LoadError::Program)?;
        let link = FdLink::try_from(link).map_err(LoadError::Link)?;
        link.pin(pin).map_err(LoadError::Pin)?;
        Ok(())
    }
}

/// Has a pinned link run this program from now on.
fn replace(program: &mut SchedClassifier, pin: &Path) -> Result<(), LoadError> {
    let link: FdLink = PinnedLink::from_pin(pin).map_err(LoadError::Link)?.into();
    let link = SchedClassifierLink::try_from(link).map_err(LoadError::Link)?;
    program.attach_to_link(link).map_err(LoadError::Program)?;
    Ok(())
}

/// Attaches a filter, which stays when a process is killed: the one of such a process goes.
fn filter(program: &mut SchedClassifier, interface: &str, outlives: bool) -> Result<(), LoadError> {
    // Fails where there is one, which is as good.
    let _ = tc::qdisc_add_clsact(interface);
    remove_filter(interface);
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: 1,
        ..NlOptions::default()
    });
    let id = program
        .attach_with_options(interface, TcAttachType::Ingress, options)
        .map_err(LoadError::Program)?;
    if outlives {
        let link = program.take_link(id).map_err(LoadError::Program)?;
        // Dropping it would remove the filter.
        mem::forget(link);
    }
    Ok(())
}

/// Removes a filter that a router has left, on a kernel without TCX.
pub fn remove_filter(interface: &str) {
    for layer in [Layer::Ether, Layer::Ip] {
        // Fails where there is none.
        let _ = tc::qdisc_detach_program(interface, TcAttachType::Ingress, layer.program());
    }
}

/// The kernel that brought TCX.
const TCX: KernelVersion = KernelVersion::new(6, 6, 0);
