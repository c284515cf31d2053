//! What this process may do, given up as soon as it is not needed any more.
//!
//! Twice: what no router ever needs, by the first thread before there is another; then what only the start
//! needs, by every thread. Neither can be taken back, also not by a program that is started, as one that
//! gets a cluster's credentials.

use rustix::io;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::system::uname;
use rustix::thread::{
    CapabilitySet, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_no_new_privs,
};
use tracing::{debug, warn};

use crate::sys::capabilities::{limit_thread, limit_threads};

/// What the first thread has left.
#[must_use = "the start needs more than what follows"]
pub struct Privileges {
    /// What there was; `None` where all of it is kept.
    had: Option<CapabilitySet>,
    /// Why that could not be changed.
    trouble: Option<std::io::Error>,
}

/// What a router does once it has started.
#[derive(Clone, Copy, Debug)]
pub struct Duties {
    /// It repairs sockets, has to do with interfaces, deletes entries of connection tracking.
    pub carries_flows: bool,
    /// It changes routes.
    pub claims_vips: bool,
    /// It binds the listeners' ports: to listen, or to reset the connections of flows.
    pub binds_ports: bool,
    /// It reads and writes maps.
    pub uses_maps: bool,
}

impl Privileges {
    /// Gives up what no router needs, for this thread and all that come of it; with `keep`, nothing.
    ///
    /// Must be called before another thread is started.
    pub fn start(keep: bool) -> Self {
        if keep {
            return Self {
                had: None,
                trouble: None,
            };
        }
        let had = capabilities(None).map(|sets| sets.permitted);
        let trouble = confine().err();
        Self {
            had: Some(had.unwrap_or(CapabilitySet::all())),
            trouble,
        }
    }

    /// Gives up what only the start needed, on every thread.
    pub fn limit(self, duties: Duties) {
        let Some(had) = self.had else {
            return debug!("privileges are kept, as asked");
        };
        let kept = had & later(duties, is_strict(release().as_deref()));
        let limited = limit_threads(kept).err();
        for error in [self.trouble, limited].into_iter().flatten() {
            warn!(%error, "not every privilege could be given up");
        }
        debug!(
            given_up = names(had - kept),
            kept = names(kept),
            "privileges"
        );
    }
}

/// Also keeps others of the same user from reading this process's memory, with the credentials in it, and
/// those from a core file.
fn confine() -> Result<(), std::io::Error> {
    set_no_new_privs(true)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    clear_ambient_capability_set()?;
    // Without this one, whoever has started us has seen to it.
    if capabilities(None)?
        .effective
        .contains(CapabilitySet::SETPCAP)
    {
        empty_bounding_set()?;
    }
    limit_thread(START)
}

/// What an executed program could get: nothing.
fn empty_bounding_set() -> io::Result<()> {
    for capability in (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit)) {
        match remove_capability_from_bounding_set(capability) {
            // More than this kernel has.
            Err(io::Errno::INVAL) => break,
            other => other?,
        }
    }
    Ok(())
}

/// What the start needs.
const START: CapabilitySet = ALWAYS
    .union(CapabilitySet::BPF)
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    // Maps count as locked memory before Linux 5.11, and the limit of that is raised.
    .union(CapabilitySet::SYS_RESOURCE);

/// What root needs to read manifests and credentials that are another user's; nobody else has it to keep.
const ALWAYS: CapabilitySet = CapabilitySet::DAC_READ_SEARCH;

/// What is needed after it; `is_strict` says that the kernel asks for CAP_BPF at every look into a map.
fn later(duties: Duties, is_strict: bool) -> CapabilitySet {
    let needs = [
        (
            CapabilitySet::NET_ADMIN,
            duties.carries_flows || duties.claims_vips,
        ),
        (CapabilitySet::NET_BIND_SERVICE, duties.binds_ports),
        (CapabilitySet::BPF, duties.uses_maps && is_strict),
    ];
    let needed = needs.into_iter().filter(|(_, is_needed)| *is_needed);
    needed
        .map(|(capability, _)| capability)
        .fold(ALWAYS, CapabilitySet::union)
}

/// With `kernel.unprivileged_bpf_disabled`, which distributions set, bpf(2) asked for CAP_BPF whatever it
/// was to do, until commit c8644cd0efe7 of Linux 5.19. What is not known counts as strict.
fn is_strict(release: Option<&str>) -> bool {
    let mut numbers = release
        .unwrap_or_default()
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => (major, minor) < (5, 19),
        _ => true,
    }
}

fn release() -> Option<String> {
    uname().release().to_str().ok().map(str::to_owned)
}

fn names(set: CapabilitySet) -> String {
    let names: Vec<_> = set.iter_names().map(|(name, _)| name).collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Duties = Duties {
        carries_flows: false,
        claims_vips: false,
        binds_ports: false,
        uses_maps: false,
    };

    #[test]
    fn what_is_kept_follows_from_what_is_left_to_do() {
        assert_eq!(later(NOTHING, true), ALWAYS);
        let flows = Duties {
            carries_flows: true,
            uses_maps: true,
            ..NOTHING
        };
        assert_eq!(later(flows, false), ALWAYS | CapabilitySet::NET_ADMIN);
        let strict = CapabilitySet::NET_ADMIN | CapabilitySet::BPF;
        assert_eq!(later(flows, true), ALWAYS | strict);
        let binds = Duties {
            binds_ports: true,
            claims_vips: true,
            ..NOTHING
        };
        let expected = CapabilitySet::NET_BIND_SERVICE | CapabilitySet::NET_ADMIN;
        assert_eq!(later(binds, true), ALWAYS | expected);
    }

    #[test]
    fn kernels_before_5_19_are_strict() {
        for (release, expected) in [
            ("5.10.0-30-amd64", true),
            ("5.18", true),
            ("5.19.0", false),
            ("6.1.0-13-cloud", false),
            ("10.0", false),
            ("unknown", true),
            ("6", true),
        ] {
            assert_eq!(is_strict(Some(release)), expected, "{release}");
        }
        assert!(is_strict(None));
    }
}
