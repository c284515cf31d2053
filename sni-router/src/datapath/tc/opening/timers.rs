//! When something is to be done for those whose connections are being opened.

use std::collections::VecDeque;
use std::time::Instant;

use sni_router_common::flow::FlowKey;

/// Moments, the first one first, keys and numbers of openings.
pub(super) type Deadlines = VecDeque<(Instant, FlowKey, u64)>;

/// See the module.
#[derive(Default)]
pub(super) struct Timers {
    /// When each is given up.
    pub(super) deadlines: Deadlines,
    /// When a SYN is sent once more for each.
    pub(super) repeats: Deadlines,
    /// When a socket is tried to be made once more for some.
    pub(super) retries: Deadlines,
    /// When some are told that a part of their hello has come.
    pub(super) parts: Deadlines,
}

impl Timers {
    /// All of them.
    pub(super) fn all(&mut self) -> [&mut Deadlines; 4] {
        [
            &mut self.deadlines,
            &mut self.repeats,
            &mut self.retries,
            &mut self.parts,
        ]
    }
}
