//! The kernel programs and their maps, behind verbs of the domain. Only this folder names aya.
//!
//! Everything is owned by this process: when it ends, however it ends, the kernel detaches the
//! programs and frees the maps.

mod counters;
mod load;
mod logger;
mod rules;
mod sockets;

use std::io;
use std::os::fd::BorrowedFd;

use aya::Ebpf;
use aya::maps::{MapData, SockMap};
use aya::programs::{SkLookup, SkSkb};
use sni_router_common::names;

pub use counters::Counters;
pub use load::LoadError;
pub use logger::forward as forward_logs;
pub use rules::Rules;
pub use sockets::{Sockets, StreamView};

use load::{array, map, program};

/// The loaded object. The programs stay attached while this lives.
pub struct Kernel {
    ebpf: Ebpf,
}

impl Kernel {
    /// Loads maps and programs into the kernel; nothing is attached yet.
    pub fn load() -> Result<Self, LoadError> {
        let mut ebpf = load::load()?;
        // Before any map is taken out: loading resolves map references to open descriptors.
        program::<SkLookup>(&mut ebpf, names::PROG_LOOKUP)?
            .load()
            .map_err(LoadError::Program)?;
        program::<SkSkb>(&mut ebpf, names::PROG_VERDICT)?
            .load()
            .map_err(LoadError::Program)?;
        Ok(Self { ebpf })
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
        let mut listen: SockMap<MapData> = map(&mut self.ebpf, names::MAP_LISTEN)?;
        for (index, socket) in [(names::LISTEN_V4, v4), (names::LISTEN_V6, v6)] {
            if let Some(socket) = socket {
                listen.set(index, &socket, 0).map_err(LoadError::Map)?;
            }
        }
        let netns = std::fs::File::open("/proc/self/ns/net").map_err(LoadError::Netns)?;
        let lookup: &mut SkLookup = program(&mut self.ebpf, names::PROG_LOOKUP)?;
        lookup.attach(netns).map_err(LoadError::Program)?;
        Ok(())
    }

    /// The steering rules.
    pub fn rules(&mut self) -> Result<Rules, LoadError> {
        Ok(Rules::new(map(&mut self.ebpf, names::MAP_RULES)?))
    }

    /// Attaches `snir_verdict` to the map of carried sockets, and returns the maps.
    pub fn attach_verdict(&mut self) -> Result<Sockets, LoadError> {
        let sockets = Sockets::new(
            map(&mut self.ebpf, names::MAP_SOCKS)?,
            map(&mut self.ebpf, names::MAP_SLOTS)?,
            &array(&mut self.ebpf, names::MAP_STREAMS)?,
            map(&mut self.ebpf, names::MAP_EVENTS)?,
        )
        .map_err(LoadError::Sockets)?;
        let verdict: &mut SkSkb = program(&mut self.ebpf, names::PROG_VERDICT)?;
        verdict.attach(sockets.fd()).map_err(LoadError::Program)?;
        Ok(sockets)
    }

    /// The programs' counters.
    pub fn counters(&mut self) -> Result<Counters, LoadError> {
        Ok(Counters::new(map(&mut self.ebpf, names::MAP_COUNT)?))
    }
}

/// aya reports the kernel's refusals in its own types; callers only need to know which it was.
fn io_error(error: aya::maps::MapError) -> io::Error {
    match error {
        aya::maps::MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}
