//! Attaching `snir_tc` to interfaces.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::mem;
use std::path::Path;
use std::sync::{Arc, Mutex};

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{
    self, NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcError, TcHandle,
};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use clap::ValueEnum;
use sni_router_common::names;
use tracing::debug;

use super::facts::KernelFacts;
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

/// How the program gets to an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Attach {
    /// By TCX where the kernel has it (Linux 6.6), else by clsact.
    #[default]
    Auto,
    /// By a filter of the first priority in the clsact of the interface, behind every program of TCX.
    Clsact,
}

impl Attach {
    fn is_tcx(self) -> bool {
        self == Self::Auto && KernelVersion::current().is_ok_and(|kernel| kernel >= TCX)
    }
}

/// Where the program can be attached. It stays attached as long as the [`Kernel`](super::Kernel)
/// lives, or the interface; with pins, as long as those are there.
pub struct Hooks {
    ebpf: Arc<Mutex<Ebpf>>,
    attach: Attach,
    pins: Option<Arc<Pins>>,
    /// What is attached, by the number of the interface. Without a link where that is pinned only.
    links: HashMap<u32, (Layer, Option<SchedClassifierLinkId>)>,
    facts: Arc<KernelFacts>,
}

impl Hooks {
    pub(super) fn new(
        ebpf: Arc<Mutex<Ebpf>>,
        attach: Attach,
        pins: Option<Arc<Pins>>,
        facts: Arc<KernelFacts>,
    ) -> Self {
        Self {
            ebpf,
            attach,
            pins,
            links: HashMap::new(),
            facts,
        }
    }

    /// Attaches the program where packets come in by the interface with this name and number.
    ///
    /// First in the chain: what is ours has to be seen as it came, and what is not ours goes on to
    /// whoever is next. By TCX, or by a filter of the first priority, in a clsact that may be there
    /// already. What an earlier router has attached by the other way goes once this is there.
    pub fn attach(&mut self, index: u32, interface: &str, layer: Layer) -> Result<(), LoadError> {
        if self.pins.as_ref().is_some_and(|pins| !pins.is_owned()) {
            // Another router's business.
            return Ok(());
        }
        if self.links.contains_key(&index) {
            self.detach(index);
        }
        let link = self.attach_anew(index, interface, layer)?;
        self.links.insert(index, (layer, link));
        let by = match self.attach.is_tcx() {
            true => "tcx",
            false => "clsact",
        };
        self.facts.attach(index, interface, layer.program(), by);
        Ok(())
    }

    /// Whether it is still attached to an interface, which may be another one by now, with the same number and name.
    /// False where that cannot be told.
    pub fn is_there(&self, index: u32, interface: &str) -> bool {
        let Some((layer, _)) = self.links.get(&index).filter(|_| self.attach.is_tcx()) else {
            return false;
        };
        let ebpf = &mut *lock(&self.ebpf);
        let program: Result<&mut SchedClassifier, _> = program(ebpf, layer.program());
        let id = program
            .ok()
            .and_then(|program| Some(program.info().ok()?.id()));
        let there = SchedClassifier::query_tcx(interface, TcAttachType::Ingress);
        there.is_ok_and(|(_, programs)| programs.iter().any(|it| Some(it.id()) == id))
    }

    /// Notes why the program is not attached to an interface.
    pub fn refuse(&self, index: u32, interface: &str, why: &str) {
        self.facts.refuse(index, interface, why);
    }

    /// An interface has another name.
    pub fn rename(&self, index: u32, name: &str) {
        self.facts.rename(index, name);
    }

    fn attach_anew(
        &self,
        index: u32,
        interface: &str,
        layer: Layer,
    ) -> Result<Option<SchedClassifierLinkId>, LoadError> {
        let ebpf = &mut *lock(&self.ebpf);
        let program: &mut SchedClassifier = program(ebpf, layer.program())?;
        let pin = self.pins.as_ref().map(|pins| pins.link(index));
        if self.attach.is_tcx() {
            let attached = link(program, interface, pin.as_deref())?;
            remove_filter(interface, names::ABI);
            return Ok(attached);
        }
        let attached = filter(program, interface, pin.is_some())?;
        if let Some(pin) = pin {
            // Fails where there is none.
            let _ = fs::remove_file(pin);
        }
        Ok(attached)
    }

    /// Lets go of an interface: it has gone, perhaps into another network namespace, where the
    /// program would still run.
    pub fn detach(&mut self, index: u32) {
        self.facts.detach(index);
        let Some((layer, link)) = self.links.remove(&index) else {
            return;
        };
        if let Some(pins) = self.pins.as_ref().filter(|pins| pins.is_owned()) {
            // Fails where there is none.
            let _ = fs::remove_file(pins.link(index));
        }
        let ebpf = &mut *lock(&self.ebpf);
        if let (Some(link), Ok(program)) = (link, program::<SchedClassifier>(ebpf, layer.program()))
        {
            // Fails where the interface took it along.
            let _ = program.detach(link);
        }
    }
}

/// Attaches by TCX. With `pin`, the link is there, or gets there.
fn link(
    program: &mut SchedClassifier,
    interface: &str,
    pin: Option<&Path>,
) -> Result<Option<SchedClassifierLinkId>, LoadError> {
    if let Some(pin) = pin.filter(|pin| pin.exists()) {
        // The one program follows the other between two packets.
        let error = match replace(program, pin) {
            Ok(id) => return Ok(Some(id)),
            Err(error) => error,
        };
        debug!(interface, %error, "the link is of another interface, or has lost it");
        // Without it there is nothing to attach to either, which the next step says.
        let _ = fs::remove_file(pin);
    }
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(interface, TcAttachType::Ingress, order)
        .map_err(LoadError::Program)?;
    let Some(pin) = pin else { return Ok(Some(id)) };
    let link = program.take_link(id).map_err(LoadError::Program)?;
    let link = FdLink::try_from(link).map_err(LoadError::Link)?;
    link.pin(pin).map_err(LoadError::Pin)?;
    Ok(None)
}

/// Has a pinned link run this program from now on.
fn replace(program: &mut SchedClassifier, pin: &Path) -> Result<SchedClassifierLinkId, LoadError> {
    let link: FdLink = PinnedLink::from_pin(pin).map_err(LoadError::Link)?.into();
    let link = SchedClassifierLink::try_from(link).map_err(LoadError::Link)?;
    program.attach_to_link(link).map_err(LoadError::Program)
}

/// Attaches by clsact. A filter stays when a process is killed: the one of such a process runs this
/// program from the next packet on (`cls_bpf_change()`, net/sched/cls_bpf.c).
fn filter(
    program: &mut SchedClassifier,
    interface: &str,
    outlives: bool,
) -> Result<Option<SchedClassifierLinkId>, LoadError> {
    // Fails where there is one, which is as good.
    let _ = tc::qdisc_add_clsact(interface);
    let there = of_version(interface, names::ABI)
        .map_err(|error| LoadError::Program(TcError::IoError(error).into()))?;
    let id = match program.attach_to_link(there) {
        Ok(id) => id,
        // There is none.
        Err(_) => {
            let options = TcAttachOptions::Netlink(NlOptions {
                priority: PRIORITY,
                handle: handle(names::ABI),
                ..NlOptions::default()
            });
            program
                .attach_with_options(interface, TcAttachType::Ingress, options)
                .map_err(|error| LoadError::Filter(interface.to_owned(), error))?
        }
    };
    if outlives {
        let link = program.take_link(id).map_err(LoadError::Program)?;
        // Dropping it would remove the filter.
        mem::forget(link);
        return Ok(None);
    }
    Ok(Some(id))
}

/// Removes the filter that a router of this version has left.
pub fn remove_filter(interface: &str, version: u32) {
    // Dropping detaches it. Fails where there is none.
    let _ = of_version(interface, version).map(drop);
}

fn of_version(interface: &str, version: u32) -> io::Result<SchedClassifierLink> {
    let class = None;
    SchedClassifierLink::attached(
        interface,
        TcAttachType::Ingress,
        PRIORITY,
        handle(version),
        class,
    )
}

/// Which of the filters of that priority is ours. Others get small numbers.
fn handle(version: u32) -> TcHandle {
    (version << 16 | FILTER).into()
}

/// The first.
const PRIORITY: u16 = 1;

/// "SN".
const FILTER: u32 = 0x534e;

/// The kernel that brought TCX.
const TCX: KernelVersion = KernelVersion::new(6, 6, 0);
