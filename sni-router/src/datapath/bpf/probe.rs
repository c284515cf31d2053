//! Whether this kernel takes the programs, and whose others are: looking without touching.

use std::collections::BTreeMap;

use aya::programs::{ProgramInfo, SchedClassifier, loaded_programs};
use sni_router_common::names;

use super::load::{LoadError, program};
use super::{Kernel, lock};

/// The kernel has taken all programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Whether it has made machine code of them; `None` where it does not say.
    pub is_compiled: Option<bool>,
}

/// Loads all programs and their maps, attaches and pins nothing, and lets go of them.
pub fn probe() -> Result<Taken, LoadError> {
    let mut kernel = Kernel::load(None)?;
    // Ports that are looked at are noted in a map of this object's own.
    kernel.load_tc(0..=0)?;
    let ebpf = &mut *lock(&kernel.ebpf);
    let classifier: &mut SchedClassifier = program(ebpf, names::PROG_TC_ETHER)?;
    let info = classifier.info().ok();
    Ok(Taken {
        is_compiled: info.map(|info| info.size_jitted() > 0),
    })
}

/// The names of all loaded programs by their numbers, cut as the kernel cuts them; none without
/// CAP_SYS_ADMIN.
pub fn program_names() -> BTreeMap<u32, String> {
    let named = |info: ProgramInfo| Some((info.id(), info.name_as_str()?.to_owned()));
    loaded_programs()
        // One that was unloaded meanwhile.
        .flatten()
        .filter_map(named)
        .collect()
}
