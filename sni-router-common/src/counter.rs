//! Counters of the kernel programs, by reason.

/// An index into [`Counts`].
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
    VerdictEventLost = 7,
    /// tc: packets of flows sent on.
    TcRedirected = 8,
    /// tc: bytes that flows from clients have gone on by. What is sent again is not counted again.
    TcBytesUp = 9,
    /// tc: the same of flows from endpoints.
    TcBytesDown = 10,
    /// tc: packets of flows passed to the daemon's own socket, which still sends the hello.
    TcHeld = 11,
    /// tc: flows removed because their client opened a new connection from the same port.
    TcReopened = 12,
    /// tc: packets of flows that ended here, since their TTL or hop limit had run out.
    TcTtlExceeded = 13,
    /// tc: packets of flows that ended here, since they were larger than the next link takes.
    TcTooBig = 14,
    /// tc: packets of flows dropped, since the kernel would not let them be changed.
    TcFailed = 15,
    /// tc: events lost, since the ring was full. The daemon then looks at every flow.
    TcEventLost = 16,
    /// tc: ICMP errors made, for packets that had come too far or were too large.
    TcAnswered = 17,
    /// tc: ICMP errors about packets of flows, translated and sent on to who had sent the packet.
    TcTranslated = 18,
    /// tc: ICMP errors passed to the stack, since no such packet of the flow can be under way.
    TcUnbelieved = 19,
    /// tc: packets of flows dropped, since they were fragments, had IP options or extension headers,
    /// or were malformed. The stack, which knows no such connection, would answer with a reset.
    TcOdd = 20,
    /// sk_skb: bytes redirected to endpoints.
    VerdictBytesUp = 21,
    /// sk_skb: bytes redirected to clients.
    VerdictBytesDown = 22,
    /// tc: packets of flows dropped, since they had a congestion mark that their receiver cannot report.
    /// What is sent again passes.
    TcMarked = 23,
    /// tc: packets of handshakes and hellos taken for the daemon, which opens the connection without a
    /// socket.
    TcTaken = 24,
    /// tc: packets of such connections dropped while they are opened; they are sent again.
    TcEarly = 25,
}

impl Counter {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 26] = [
        Self::LookupSteered,
        Self::LookupNoSocket,
        Self::LookupAssignFailed,
        Self::VerdictRedirected,
        Self::VerdictPassed,
        Self::VerdictNoSlot,
        Self::VerdictNoPeer,
        Self::VerdictEventLost,
        Self::TcRedirected,
        Self::TcBytesUp,
        Self::TcBytesDown,
        Self::TcHeld,
        Self::TcReopened,
        Self::TcTtlExceeded,
        Self::TcTooBig,
        Self::TcFailed,
        Self::TcEventLost,
        Self::TcAnswered,
        Self::TcTranslated,
        Self::TcUnbelieved,
        Self::TcOdd,
        Self::VerdictBytesUp,
        Self::VerdictBytesDown,
        Self::TcMarked,
        Self::TcTaken,
        Self::TcEarly,
    ];

    /// The name in logs: the program, then what it counts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LookupSteered => "lookup_steered",
            Self::LookupNoSocket => "lookup_no_socket",
            Self::LookupAssignFailed => "lookup_assign_failed",
            Self::VerdictRedirected => "verdict_redirected",
            Self::VerdictPassed => "verdict_passed",
            Self::VerdictNoSlot => "verdict_no_slot",
            Self::VerdictNoPeer => "verdict_no_peer",
            Self::VerdictEventLost => "verdict_event_lost",
            Self::TcRedirected => "tc_redirected",
            Self::TcBytesUp => "tc_bytes_up",
            Self::TcBytesDown => "tc_bytes_down",
            Self::TcHeld => "tc_held",
            Self::TcReopened => "tc_reopened",
            Self::TcTtlExceeded => "tc_ttl_exceeded",
            Self::TcTooBig => "tc_too_big",
            Self::TcFailed => "tc_failed",
            Self::TcEventLost => "tc_event_lost",
            Self::TcAnswered => "tc_answered",
            Self::TcTranslated => "tc_translated",
            Self::TcUnbelieved => "tc_unbelieved",
            Self::TcOdd => "tc_odd",
            Self::VerdictBytesUp => "verdict_bytes_up",
            Self::VerdictBytesDown => "verdict_bytes_down",
            Self::TcMarked => "tc_marked",
            Self::TcTaken => "tc_taken",
            Self::TcEarly => "tc_early",
        }
    }

    /// Whether it counts bytes; else it counts packets, connections or events.
    pub const fn is_bytes(self) -> bool {
        matches!(
            self,
            Self::TcBytesUp | Self::TcBytesDown | Self::VerdictBytesUp | Self::VerdictBytesDown
        )
    }
}

/// What a CPU has counted. All of it in one entry of a map, and what every packet counts side by side, so
/// that a packet waits for few lines of memory.
pub type Counts = [u64; Counter::ALL.len()];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_every_counter_at_its_number() {
        for (index, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, index);
        }
    }

    #[test]
    fn names_begin_with_the_program() {
        for counter in Counter::ALL {
            let (program, what) = counter.as_str().split_once('_').unwrap();
            assert!(["lookup", "verdict", "tc"].contains(&program), "{program}");
            assert_eq!(what.starts_with("bytes_"), counter.is_bytes(), "{what}");
        }
    }
}
