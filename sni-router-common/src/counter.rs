//! Counters of the kernel programs, by reason.

/// An index into the per-CPU counter array.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// sk_lookup: connections steered to the router.
    LookupSteered = 0,
    /// sk_lookup: a rule matched, but no listening socket of its family was in the map; dropped.
    LookupNoSocket = 1,
    /// sk_lookup: the kernel refused the socket; dropped.
    LookupAssignFailed = 2,
    /// sk_skb: buffers redirected to the peer.
    VerdictRedirected = 3,
    /// sk_skb: buffers passed to the daemon, since the limit was reached.
    VerdictPassed = 4,
    /// sk_skb: buffers passed to the daemon, since the socket has no slot.
    VerdictNoSlot = 5,
    /// sk_skb: buffers passed to the daemon, since the peer's socket is gone.
    VerdictNoPeer = 6,
    /// sk_skb: events lost, since the ring was full. The daemon then looks at every slot.
    EventLost = 7,
}

impl Counter {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::LookupSteered,
        Self::LookupNoSocket,
        Self::LookupAssignFailed,
        Self::VerdictRedirected,
        Self::VerdictPassed,
        Self::VerdictNoSlot,
        Self::VerdictNoPeer,
        Self::EventLost,
    ];

    /// The name in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LookupSteered => "lookup_steered",
            Self::LookupNoSocket => "lookup_no_socket",
            Self::LookupAssignFailed => "lookup_assign_failed",
            Self::VerdictRedirected => "verdict_redirected",
            Self::VerdictPassed => "verdict_passed",
            Self::VerdictNoSlot => "verdict_no_slot",
            Self::VerdictNoPeer => "verdict_no_peer",
            Self::EventLost => "event_lost",
        }
    }
}

/// Entries of the counter array.
pub const COUNTERS: u32 = Counter::ALL.len() as u32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_every_counter_at_its_number() {
        for (index, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, index);
        }
    }
}
