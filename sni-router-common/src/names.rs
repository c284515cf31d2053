//! Names and capacities of kernel objects. The kernel cuts names at 15 bytes, so none is longer.

use crate::handshake::{SETS, WAYS};

/// sk_lookup program: (VIP, port) → the router's listening sockets.
pub const PROG_LOOKUP: &str = "snir_lookup";
/// sk_skb verdict program: redirect to the peer's socket, within the limit userspace grants.
pub const PROG_VERDICT: &str = "snir_verdict";
/// tc program for interfaces with an Ethernet header: rewrites packets of flows and sends them on.
pub const PROG_TC_ETHER: &str = "snir_tc_ether";
/// The same for interfaces whose packets start with the IP header.
pub const PROG_TC_IP: &str = "snir_tc_ip";
/// TC program that is never attached: run once, it [tells](crate::running::Told) what the others must know of this kernel.
pub const PROG_ASK: &str = "snir_ask";
/// Run by the daemon to change where a direction of a flow leaves; never attached.
pub const PROG_LEAD: &str = "snir_lead";

/// Hash: [`RuleKey`](crate::rule::RuleKey) → [`Rule`](crate::rule::Rule).
pub const MAP_RULES: &str = "SNI_RULES";
/// Sock map of listening sockets: address family → one socket of the reuseport group.
pub const MAP_LISTEN: &str = "SNI_LISTEN";
/// Sock hash of carried sockets: slot → socket. The peer of slot `n` is slot `n ^ 1`.
pub const MAP_SOCKS: &str = "SNI_SOCKS";
/// Hash: socket cookie → slot.
pub const MAP_SLOTS: &str = "SNI_SLOTS";
/// Array, mapped into the daemon's memory: slot → [`Stream`](crate::stream::Stream).
pub const MAP_STREAMS: &str = "SNI_STREAMS";
/// Ring buffer: slots that need the daemon's attention.
pub const MAP_EVENTS: &str = "SNI_EVENTS";
/// Per-CPU array of one: [what a CPU has counted](crate::counter::Counts).
pub const MAP_COUNT: &str = "SNI_COUNT";
/// Array of 64-bit words: a bit for each port that packets of flows, or handshakes of ours, come to.
pub const MAP_PORTS: &str = "SNI_PORTS";
/// Array, mapped into the daemon's memory: [slots](crate::handshake::Slot) of handshakes.
pub const MAP_SEEN: &str = "SNI_SEEN";
/// Hash: [`FlowKey`](crate::flow::FlowKey) → [`Flow`](crate::flow::Flow).
pub const MAP_FLOWS: &str = "SNI_FLOWS";
/// Ring buffer: flows that have [ended](crate::flow::Ended).
pub const MAP_ENDED: &str = "SNI_ENDED";
/// Per-CPU array of one: where a CPU walks a packet's options.
pub const MAP_OPTIONS: &str = "SNI_OPTIONS";
/// Per-CPU array of one: where a CPU adds up a packet's bytes.
pub const MAP_CHUNK: &str = "SNI_CHUNK";
/// Per-CPU array of two: when a CPU may make the next ICMP error of a kind.
pub const MAP_BUDGET: &str = "SNI_BUDGET";

/// Array, mapped into the daemon's memory: [until when](crate::taken::until) clients are taken.
pub const MAP_UNTIL: &str = "SNI_UNTIL";
/// Ring buffer: packets that were [taken](crate::taken::Taken).
pub const MAP_TAKEN: &str = "SNI_TAKEN";
/// Per-CPU array of one: where a CPU makes what goes into that ring.
pub const MAP_BUFFER: &str = "SNI_BUFFER";

/// A constant of the programs, which the loader fills in: [where](crate::taken::Request) the kernel has what is
/// read of a request.
pub const GLOBAL_REQUEST: &str = "SNI_REQUEST";
/// The same: [how](crate::running::Clock) jiffies become the monotonic clock.
pub const GLOBAL_CLOCK: &str = "SNI_CLOCK";
/// The same: [where](crate::running::Summed) the kernel notes what a packet's checksum covers.
pub const GLOBAL_SUMMED: &str = "SNI_SUMMED";

/// The version of what flows are to programs and daemon: of [`Flow`](crate::flow::Flow),
/// [`Seen`](crate::handshake::Seen) and [`Ended`](crate::flow::Ended), and of who does what with them. A
/// daemon adopts the flows of its own version only.
pub const ABI: u32 = 3;

/// VIPs times ports the router can own.
pub const MAX_RULES: u32 = 16_384;
/// Slots, two a connection.
pub const MAX_SLOTS: u32 = 65_536;
/// Bytes of the event ring; an event takes 16, and one is written per megabyte at most.
pub const EVENT_RING_BYTES: u32 = 256 * 1024;
/// Entries of the flow table, two a connection: a million, and as many buckets, of 16 bytes. The rest of
/// its memory is taken as flows come.
pub const MAX_FLOWS: u32 = 2_097_152;
/// Handshakes and hellos under way that the kernel remembers; old ones go first.
pub const MAX_SEEN: u32 = SETS * WAYS as u32;
/// Words of [`MAP_PORTS`].
pub const PORT_WORDS: u32 = 1024;
/// Bytes of the ring of ended flows; one takes 32.
pub const ENDED_RING_BYTES: u32 = 1024 * 1024;

/// Bytes of the ring of packets that were taken, of which one mostly takes 600 to 2,000.
pub const TAKEN_RING_BYTES: u32 = 4 * 1024 * 1024;

/// Index into [`MAP_LISTEN`] for IPv4 connections.
pub const LISTEN_V4: u32 = 0;
/// Index into [`MAP_LISTEN`] for IPv6 connections.
pub const LISTEN_V6: u32 = 1;
/// Entries of [`MAP_LISTEN`].
pub const LISTEN_ENTRIES: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernels_limit() {
        for name in [
            PROG_LOOKUP,
            PROG_VERDICT,
            MAP_RULES,
            MAP_LISTEN,
            MAP_SOCKS,
            MAP_SLOTS,
            MAP_STREAMS,
            MAP_EVENTS,
            MAP_COUNT,
            PROG_TC_ETHER,
            PROG_TC_IP,
            PROG_ASK,
            PROG_LEAD,
            MAP_PORTS,
            MAP_SEEN,
            MAP_FLOWS,
            MAP_ENDED,
            MAP_UNTIL,
            MAP_TAKEN,
            MAP_BUFFER,
        ] {
            assert!(name.len() <= 15, "{name} would be cut");
        }
    }
}
