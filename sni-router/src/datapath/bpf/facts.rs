//! What this process has in the kernel, for whoever asks.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aya::Ebpf;
use aya::programs::{Program, ProgramType};
use sni_router_common::names;

use super::lock;

/// See the module.
pub struct KernelFacts {
    /// Where what outlives the process is pinned.
    pub pins: Option<PathBuf>,
    ebpf: Arc<Mutex<Ebpf>>,
    places: Mutex<Places>,
}

/// Where programs are attached, or should be.
#[derive(Default)]
struct Places {
    /// By the interface's number.
    interfaces: BTreeMap<u32, Interface>,
    /// Other places, with the program.
    others: Vec<(&'static str, Attachment)>,
}

/// A program that the kernel has.
#[derive(Clone, Debug)]
pub struct LoadedProgram {
    /// Its name.
    pub name: String,
    /// What kind of program it is, as bpftool says it.
    pub kind: &'static str,
    /// The kernel's number for it.
    pub id: u32,
    /// Where it is attached.
    pub attached: Vec<Attachment>,
    /// How often it ran, and how long in all, as far as that was counted.
    pub runs: Option<(u64, Duration)>,
}

/// A place that a program is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// An interface, the network namespace, a map.
    pub to: String,
    /// How: `tcx`, `clsact`, `netns`, `map`.
    pub by: &'static str,
}

/// An interface whose packets should be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The program that is attached to it and how, or why there is none.
    pub program: Result<(&'static str, &'static str), String>,
}

impl KernelFacts {
    /// Maps with what they have room for, of the object as it is built.
    pub const MAPS: [(&str, u32); 14] = [
        (names::MAP_RULES, names::MAX_RULES),
        (names::MAP_LISTEN, names::LISTEN_ENTRIES),
        (names::MAP_SOCKS, names::MAX_SLOTS),
        (names::MAP_SLOTS, names::MAX_SLOTS),
        (names::MAP_STREAMS, names::MAX_SLOTS),
        (names::MAP_EVENTS, names::EVENT_RING_BYTES),
        (names::MAP_COUNT, 1),
        (names::MAP_PORTS, names::PORT_WORDS),
        (names::MAP_SEEN, names::MAX_SEEN),
        (names::MAP_FLOWS, names::MAX_FLOWS),
        (names::MAP_ENDED, names::ENDED_RING_BYTES),
        (names::MAP_OPTIONS, 1),
        (names::MAP_CHUNK, 1),
        (names::MAP_BUDGET, 2),
    ];

    pub(super) fn new(pins: Option<PathBuf>, ebpf: Arc<Mutex<Ebpf>>) -> Self {
        Self {
            pins,
            ebpf,
            places: Mutex::default(),
        }
    }

    /// The interfaces that there are, by their numbers.
    pub fn interfaces(&self) -> Vec<(u32, Interface)> {
        let places = self.places();
        let interfaces = places.interfaces.iter();
        interfaces.map(|(index, it)| (*index, it.clone())).collect()
    }

    /// The programs that are loaded, by name.
    pub fn programs(&self) -> Vec<LoadedProgram> {
        let is_counting = fs::read_to_string(BPF_STATS).is_ok_and(|it| it.trim() != "0");
        let ebpf = lock(&self.ebpf);
        let loaded = ebpf
            .programs()
            .filter_map(|(name, program)| self.loaded(name, program, is_counting));
        let mut loaded: Vec<_> = loaded.collect();
        loaded.sort_by(|a, b| a.name.cmp(&b.name));
        loaded
    }

    /// `None` if it is not loaded.
    fn loaded(&self, name: &str, program: &Program, is_counting: bool) -> Option<LoadedProgram> {
        let id = program.info().ok()?.id();
        // A process may not be allowed to look at its own descriptors.
        let (runs, time) = ran(program.fd().ok()?.as_fd().as_raw_fd()).unwrap_or_default();
        Some(LoadedProgram {
            name: name.to_owned(),
            kind: kind(program.prog_type()),
            id,
            attached: self.attachments(name),
            runs: (is_counting || runs > 0).then_some((runs, time)),
        })
    }

    fn attachments(&self, name: &str) -> Vec<Attachment> {
        let places = self.places();
        let of_interface = |interface: &Interface| {
            let (program, by) = interface.program.as_ref().ok()?;
            let to = interface.name.clone();
            (*program == name).then_some(Attachment { to, by })
        };
        let interfaces = places.interfaces.values().filter_map(of_interface);
        let others = places.others.iter().filter(|(program, _)| *program == name);
        interfaces.chain(others.map(|(_, it)| it.clone())).collect()
    }

    pub(super) fn attach(
        &self,
        index: u32,
        interface: &str,
        program: &'static str,
        by: &'static str,
    ) {
        self.note(index, interface, Ok((program, by)));
    }

    /// Notes why a program is not attached to an interface.
    pub(super) fn refuse(&self, index: u32, interface: &str, why: &str) {
        self.note(index, interface, Err(why.to_owned()));
    }

    fn note(&self, index: u32, name: &str, program: Result<(&'static str, &'static str), String>) {
        let name = name.to_owned();
        let interface = Interface { name, program };
        self.places().interfaces.insert(index, interface);
    }

    pub(super) fn attach_elsewhere(&self, program: &'static str, to: &str, by: &'static str) {
        let to = to.to_owned();
        self.places().others.push((program, Attachment { to, by }));
    }

    pub(super) fn rename(&self, index: u32, name: &str) {
        if let Some(interface) = self.places().interfaces.get_mut(&index) {
            name.clone_into(&mut interface.name);
        }
    }

    pub(super) fn detach(&self, index: u32) {
        self.places().interfaces.remove(&index);
    }

    /// A thread that panicked while holding it leaves it as good as it was.
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often a program of this process ran and how long in all (`bpf_prog_show_fdinfo`,
/// kernel/bpf/syscall.c). Zero where nobody has counted.
fn ran(fd: RawFd) -> Option<(u64, Duration)> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let number = |key: &str| {
        let mut values = info.lines().filter_map(|line| line.strip_prefix(key));
        values.next()?.trim().parse().ok()
    };
    // Since Linux 5.1; before there is nothing to tell.
    let runs = number("run_cnt:").unwrap_or(0);
    let time = number("run_time_ns:").unwrap_or(0);
    Some((runs, Duration::from_nanos(time)))
}

/// In bpftool's words.
fn kind(kind: ProgramType) -> &'static str {
    match kind {
        ProgramType::SkLookup => "sk_lookup",
        ProgramType::SkSkb => "sk_skb",
        ProgramType::SchedClassifier => "sched_cls",
        _ => "unknown",
    }
}

const BPF_STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";
