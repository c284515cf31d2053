//! The kernel programs and their maps, behind verbs of the domain. Only this folder names aya.
//!
//! Everything but what is pinned is owned by this process: when it ends, however it ends, the
//! kernel detaches the programs and frees the maps.

mod counters;
mod facts;
mod flows;
mod handshakes;
mod hooks;
mod inline;
mod lead;
mod load;
mod logger;
mod pins;
mod probe;
mod rules;
mod running;
mod sockets;
mod taken;
mod types;
mod untyped;
mod verified;

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::Ebpf;
use aya::maps::{MapData, SockMap};
use aya::programs::{SchedClassifier, SkLookup, SkSkb};
use sni_router_common::names;

pub use counters::Counters;
pub use facts::{Attachment, Interface, KernelFacts, LoadedProgram};
pub use flows::{Flows, foreign as foreign_flows, is_full, open as open_flows};
pub use handshakes::Handshakes;
pub use hooks::{Attach, Hooks, Layer, remove_filter};
use lead::Leader;
pub use load::{LoadError, missing_capabilities};
pub use logger::forward as forward_logs;
pub use pins::{PinError, Pins, Survey, remove_all, survey, version_of};
pub use probe::{Taken, probe, program_names};
pub use rules::Rules;
pub use sockets::{Sockets, StreamView};
pub use taken::{Ring, Taking, Until};

use load::{array, map, program};
use verified::verified;

/// The loaded object. The programs stay attached while this lives.
pub struct Kernel {
    ebpf: Arc<Mutex<Ebpf>>,
    pins: Option<Arc<Pins>>,
    flows: Option<Arc<Flows>>,
    facts: Arc<KernelFacts>,
    rules: Arc<AtomicUsize>,
}

impl Kernel {
    /// Loads maps and programs into the kernel; nothing is attached yet. With `pins`, what belongs
    /// to flows outlives this process, and what an earlier one has left is used.
    pub fn load(pins: Option<Arc<Pins>>) -> Result<Self, LoadError> {
        let mut ebpf = load::load(pins.as_deref())?;
        // Before any map is taken out: loading resolves map references to open descriptors.
        let lookup: &mut SkLookup = program(&mut ebpf, names::PROG_LOOKUP)?;
        verified(|| lookup.load())?;
        let verdict: &mut SkSkb = program(&mut ebpf, names::PROG_VERDICT)?;
        verified(|| verdict.load())?;
        let ebpf = Arc::new(Mutex::new(ebpf));
        let pinned = pins.as_ref().map(|pins| pins.dir());
        let facts = KernelFacts::new(pinned, Arc::clone(&ebpf));
        Ok(Self {
            ebpf,
            pins,
            flows: None,
            facts: Arc::new(facts),
            rules: Arc::default(),
        })
    }

    /// Loads the programs of the `tc` datapath, and returns their maps. Packets to `reserved` ports
    /// are looked at from now on, those to listeners once there are rules.
    pub fn load_tc(&mut self, reserved: RangeInclusive<u16>) -> Result<Arc<Flows>, LoadError> {
        let ebpf = &mut *lock(&self.ebpf);
        for name in [names::PROG_TC_ETHER, names::PROG_TC_IP, names::PROG_LEAD] {
            let classifier: &mut SchedClassifier = program(ebpf, name)?;
            verified(|| classifier.load())?;
        }
        let flows = Flows::new(
            map(ebpf, names::MAP_FLOWS)?,
            Leader::new(Arc::clone(&self.ebpf)),
            &array(ebpf, names::MAP_SEEN)?,
            &array(ebpf, names::MAP_PORTS)?,
            map(ebpf, names::MAP_ENDED)?,
            reserved,
        )
        .map_err(LoadError::Sockets)?;
        let flows = Arc::new(flows);
        self.flows = Some(Arc::clone(&flows));
        Ok(flows)
    }

    /// What the program takes of packets. Can be asked for once.
    pub fn taking(&mut self) -> Result<Taking, LoadError> {
        let ebpf = &mut *lock(&self.ebpf);
        let ring = map(ebpf, names::MAP_TAKEN)?;
        let until = array(ebpf, names::MAP_UNTIL)?;
        Taking::new(ring, until.fd()).map_err(LoadError::Sockets)
    }

    /// Where `snir_tc` can be attached, once it is loaded.
    pub fn hooks(&self, attach: Attach) -> Hooks {
        let facts = Arc::clone(&self.facts);
        Hooks::new(Arc::clone(&self.ebpf), attach, self.pins.clone(), facts)
    }

    /// What there is.
    pub fn facts(&self) -> Arc<KernelFacts> {
        Arc::clone(&self.facts)
    }

    /// Attaches `snir_lookup` to the network namespace of this process.
    ///
    /// `v4` and `v6` are one listening socket each of the groups that shall take connections to
    /// the rules' addresses; a family without one is dropped, if a rule asks for it.
    pub fn attach_lookup(
        &mut self,
        v4: Option<BorrowedFd<'_>>,
        v6: Option<BorrowedFd<'_>>,
    ) -> Result<(), LoadError> {
        let ebpf = &mut *lock(&self.ebpf);
        let mut listen: SockMap<MapData> = map(ebpf, names::MAP_LISTEN)?;
        for (index, socket) in [(names::LISTEN_V4, v4), (names::LISTEN_V6, v6)] {
            if let Some(socket) = socket {
                listen.set(index, &socket, 0).map_err(LoadError::Map)?;
            }
        }
        let netns = std::fs::File::open("/proc/self/ns/net").map_err(LoadError::Netns)?;
        let lookup: &mut SkLookup = program(ebpf, names::PROG_LOOKUP)?;
        lookup.attach(netns).map_err(LoadError::Program)?;
        let place = "the network namespace";
        self.facts
            .attach_elsewhere(names::PROG_LOOKUP, place, "netns");
        Ok(())
    }

    /// The steering rules.
    pub fn rules(&mut self) -> Result<Rules, LoadError> {
        let rules = map(&mut lock(&self.ebpf), names::MAP_RULES)?;
        let count = Arc::clone(&self.rules);
        Ok(Rules::new(rules, self.flows.clone(), count))
    }

    /// How many steering rules there are, also later on.
    pub fn rule_count(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.rules)
    }

    /// Attaches `snir_verdict` to the map of carried sockets, and returns the maps.
    pub fn attach_verdict(&mut self) -> Result<Sockets, LoadError> {
        let ebpf = &mut *lock(&self.ebpf);
        let sockets = Sockets::new(
            map(ebpf, names::MAP_SOCKS)?,
            map(ebpf, names::MAP_SLOTS)?,
            &array(ebpf, names::MAP_STREAMS)?,
            map(ebpf, names::MAP_EVENTS)?,
        )
        .map_err(LoadError::Sockets)?;
        let verdict: &mut SkSkb = program(ebpf, names::PROG_VERDICT)?;
        verdict.attach(sockets.fd()).map_err(LoadError::Program)?;
        self.facts
            .attach_elsewhere(names::PROG_VERDICT, names::MAP_SOCKS, "map");
        Ok(sockets)
    }

    /// The programs' counters.
    pub fn counters(&mut self) -> Result<Counters, LoadError> {
        let counts = map(&mut lock(&self.ebpf), names::MAP_COUNT)?;
        Ok(Counters::new(counts))
    }
}

/// A thread that panicked while holding it leaves it as good as it was.
fn lock(ebpf: &Mutex<Ebpf>) -> MutexGuard<'_, Ebpf> {
    ebpf.lock().unwrap_or_else(PoisonError::into_inner)
}

/// aya reports the kernel's refusals in its own types; callers only need to know which it was.
fn io_error(error: aya::maps::MapError) -> io::Error {
    match error {
        aya::maps::MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}
