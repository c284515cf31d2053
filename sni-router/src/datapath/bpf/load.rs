//! Loading the object, and saying what is missing when that fails.

use std::io;

use aya::maps::{Map, MapData, MapError};
use aya::pin::PinError;
use aya::programs::links::LinkError;
use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfError, EbpfLoader};
use rustix::thread::{CapabilitySet, capabilities};
use sni_router_common::names::GLOBAL_REQUEST;
use thiserror::Error;
use tracing::{Level, info};

use super::pins::{self, Pins};
use super::running::Running;
use super::verified::Refusal;

/// The kernel programs, as built by the build script; empty where it found no BPF toolchain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sni-router-bpf"));

/// Why the kernel programs are not there.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The build script found no toolchain for the BPF target.
    #[error(
        "this binary was built without the kernel programs (run `cargo xtask setup` and build again)"
    )]
    NotBuilt,
    /// The process may not load programs.
    #[error(
        "missing {0} (run as root, or grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; a user \
         namespace is not enough)"
    )]
    Capability(&'static str),
    /// The object is not of this program's version.
    #[error("the kernel programs have no {0}; the build is broken")]
    Missing(&'static str),
    /// The object or one of its maps was refused.
    #[error("the kernel refused the object")]
    Object(#[source] Box<EbpfError>),
    /// A map could not be used.
    #[error("a map cannot be used")]
    Map(#[source] MapError),
    /// A program was refused.
    #[error("the kernel refused a program")]
    Program(#[source] ProgramError),
    /// A program was not loaded.
    #[error("the kernel refused a program")]
    Refused(#[from] Refusal),
    /// A filter was refused: of the first priority there is one of another kind, mostly.
    #[error(
        "the kernel refused the filter of priority 1 (if somebody's filter of another kind has that \
         priority, give it a lower one: tc filter show dev {0} ingress)"
    )]
    Filter(String, #[source] ProgramError),
    /// A link could not be used.
    #[error("a link cannot be used")]
    Link(#[source] LinkError),
    /// Something could not be pinned.
    #[error("cannot pin a link")]
    Pin(#[source] PinError),
    /// The network namespace could not be opened.
    #[error("cannot open /proc/self/ns/net")]
    Netns(#[source] io::Error),
    /// An array that is shared with the programs could not be mapped.
    #[error("cannot map an array of the kernel programs")]
    Sockets(#[source] io::Error),
}

/// Loads the object's maps and keeps its programs ready to load.
///
/// Maps of flows are those that are pinned, if there are any; else they get pinned.
pub(super) fn load(pins: Option<&Pins>) -> Result<Ebpf, LoadError> {
    if OBJECT.is_empty() {
        return Err(LoadError::NotBuilt);
    }
    check_capabilities()?;
    let level = log_level();
    let mut running = Running::find();
    let request = running.request;
    let mut loader = EbpfLoader::new();
    let object = running.tell(&mut loader, OBJECT);
    loader.override_global(aya_log::LEVEL, &level, false);
    match &request {
        Some(request) => drop(loader.override_global(GLOBAL_REQUEST, request, true)),
        None => info!(
            "every connection is opened with sockets: the kernel tells its types (BTF) or memory to nobody"
        ),
    }
    for name in pins::MAPS {
        if let Some(pins) = pins {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    loader
        .load(&object)
        .map_err(|error| LoadError::Object(Box::new(error)))
}

/// Takes a map out of the object, as what it is.
pub(super) fn map<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, LoadError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(LoadError::Missing(name))?;
    T::try_from(map).map_err(LoadError::Map)
}

/// Takes an array map out of the object without a type, to be mapped into memory.
pub(super) fn array(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, LoadError> {
    match ebpf.take_map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => Err(LoadError::Missing(name)),
    }
}

/// A program of the object, as what it is.
pub(super) fn program<'e, T>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut T, LoadError>
where
    &'e mut T: TryFrom<&'e mut Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or(LoadError::Missing(name))?
        .try_into()
        .map_err(LoadError::Program)
}

/// Names the first capability that is missing. Effective ones of a user namespace do not count
/// for the kernel, and loading then fails with EPERM all the same.
fn check_capabilities() -> Result<(), LoadError> {
    let Ok(sets) = capabilities(None) else {
        return Ok(());
    };
    let missing = missing_capabilities(sets.effective).into_iter().next();
    missing.map_or(Ok(()), |name| Err(LoadError::Capability(name)))
}

/// What a process with these effective capabilities lacks to load the programs.
pub fn missing_capabilities(effective: CapabilitySet) -> Vec<&'static str> {
    // CAP_SYS_ADMIN stands in for the other two.
    if effective.contains(CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN) {
        return Vec::new();
    }
    let needed = [
        (CapabilitySet::BPF, "CAP_BPF"),
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        (CapabilitySet::PERFMON, "CAP_PERFMON"),
    ];
    let missing = needed
        .into_iter()
        .filter(|(one, _)| !effective.contains(*one));
    missing.map(|(_, name)| name).collect()
}

/// Log statements below this level cost the programs one load. aya-log counts from 1, error, to 5,
/// trace; 0 is silence.
fn log_level() -> u8 {
    if tracing::enabled!(target: "sni_router_bpf", Level::DEBUG) {
        4
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use sni_router_common::running::inlined;

    use object::{File, Object as _};

    use super::super::inline::{Instruction, inline};
    use super::super::untyped::untyped;
    use super::*;

    #[test]
    fn instructions_take_the_place_of_the_calls_that_are_for_them() {
        let other = Instruction::load_byte(128);
        let inlined = [(inlined::SKB, other), (inlined::SUMMED, other)];
        let found = inline(OBJECT, &inlined).expect("the object has both");
        assert_eq!(found.len(), OBJECT.len());
        let changed = found.iter().zip(OBJECT).filter(|(a, b)| a != b);
        // Of three programs two calls each, and of each at least code, registers, offset and number.
        assert!((16..200).contains(&changed.count()));
        assert!(inline(&found, &inlined).is_none(), "they are gone");
        assert!(inline(&[], &inlined).is_none());
    }

    #[test]
    fn types_are_hidden_and_nothing_else() {
        let sections = |object: &[u8]| {
            let file = File::parse(object).expect("an object");
            [".BTF", ".BTF.ext", "classifier"].map(|name| file.section_by_name(name).is_some())
        };
        assert_eq!(sections(OBJECT), [true, true, true]);
        let found = untyped(OBJECT).expect("the object has types");
        assert_eq!(sections(&found), [false, false, true]);
        assert!(untyped(&found).is_none(), "they are gone");
        assert!(untyped(&[]).is_none());
    }
}
