//! The entries of the `tc` datapath: flows that the kernel carries.
//!
//! A connection that was handed over is two [`Flow`]s, one for each direction, keyed by what
//! [`snir_tc`](crate::names::PROG_TC_ETHER) finds in a packet that comes in. Everything a packet
//! needs is in its own direction's entry; the other one is looked up for FIN and RST, and for packets that
//! are not the next of their stream.
//!
//! Sequence numbers, acknowledgements and timestamps are in host order. Those of a direction's
//! sender, before anything is added, are "as sent"; they wrap and are compared as in RFC 9293,
//! section 3.4.

use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An address as a packet has it: four words of bytes in network order, IPv4 as v4-mapped. Words,
/// since the kernel program compares and copies nothing smaller without a price.
pub type Addr = [u32; 4];

/// Addresses and ports of a packet as it comes in.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable,
)]
pub struct FlowKey {
    /// Who sent the packet.
    pub src: Addr,
    /// To whom.
    pub dst: Addr,
    /// See [`ports`].
    pub ports: u32,
}

/// One direction of a connection that was handed over.
///
/// Written whole by the daemon once, before the program sees it; from then on only programs
/// write, and the daemon reads: by which interface and which way it leaves, [another one](Led) than has
/// the packets. Fields of the same direction are written by the CPU that received the packet: network
/// cards keep a connection on one. Should two meet, as behind veth, a count or a bit is lost; the next
/// packet repairs positions, which are absolute, and no end hangs on bits.
///
/// The key and the fields before [`Flow::end`] are the same in every [`ABI`](crate::names::ABI):
/// by them a daemon of another version knows which ports are taken, and when the last flow is over.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct Flow {
    /// When the last packet came, in [ticks](tick).
    pub seen: u32,
    /// See [`End`]; 0 while the connection lives.
    pub closed: u8,
    /// 1 for client to endpoint, 0 for the way back.
    pub up: u8,
    /// What this direction's packets have shown; see [`own`].
    pub own: u8,
    /// What the other direction's packets have shown; see [`peer`].
    pub peer: u8,
    /// Position after the last byte sent, FIN included. The low half is the sequence number as
    /// sent, the high half counts how often it wrapped.
    pub end: u64,
    /// Becomes the packet's source address.
    pub src: Addr,
    /// Becomes the packet's destination address.
    pub dst: Addr,
    /// Become the packet's ports; see [`ports`].
    pub ports: u32,
    /// Added to the sequence number.
    pub seq_add: u32,
    /// Added to the acknowledgement, and to the edges of SACK blocks.
    pub ack_add: u32,
    /// Added to the timestamp (TSval).
    pub ts_add: u32,
    /// Added to the timestamp echo (TSecr).
    pub ecr_add: u32,
    /// The interface that the packet leaves by.
    pub ifindex: u32,
    /// The highest acknowledgement, as sent.
    pub ack: u32,
    /// Up to where the sender is ready to receive: the most that an acknowledgement and its window
    /// have said, as sent. What the other direction sends beyond is none of its stream.
    pub edge: u32,
    /// Which of the daemon's connections this is.
    pub id: u32,
    /// The sequence number of the stream's first byte, as sent.
    pub start: u32,
    /// Of a flow up: when the connection was handed over, in [ticks](tick). Of a flow down, with
    /// [`own::HELD`] or [`own::GUARDED`]: the acknowledgement, as sent, of all that the daemon still sends; with the
    /// former, those before it are for the daemon's own socket.
    pub since_or_held: u32,
    /// Bytes that an IP packet may have on the interface it leaves by.
    pub mtu: u16,
    /// How far the window field is shifted: to the left, or to the right where negative.
    pub shift: i8,
    /// See [`option`]. The upper half is the scale of the sender's windows.
    pub options: u8,
}

/// Bits of [`Flow::options`].
pub mod option {
    /// Both handshakes agreed on timestamps.
    pub const TIMESTAMPS: u8 = 1;
    /// The receiver did not agree to SACK, the sender did: blocks are blanked out.
    pub const NO_SACK: u8 = 2;
    /// The receiver did not agree to ECN, the sender did: it is taken out, and what is marked is dropped.
    pub const NO_ECN: u8 = 4;
    /// The interface is an end of a veth pair, and packets go right to the other one.
    pub const SHORTCUT: u8 = 8;

    /// The scale of the sender's windows, from 0 to 14 (RFC 7323, section 2.3).
    pub const fn scale(bits: i8) -> u8 {
        (bits as u8) << 4
    }
}

/// Bits of [`Flow::own`].
pub mod own {
    /// A FIN was sent.
    pub const FIN: u8 = 1;
    /// The other direction's FIN was acknowledged.
    pub const ACKED_FIN: u8 = 2;
    /// The daemon's own socket is still sending the receiver's stream up to where it was handed
    /// over. A bit, since that position means nothing any more once a stream has gone 2 GiB on. Only
    /// of a flow down: the client acknowledges nothing of ours.
    pub const HELD: u8 = 4;
    /// The daemon has sent the receiver's stream up to there without a socket, and sends it again until it is
    /// acknowledged; what the client sends in its place is dropped. Only of a flow down.
    pub const GUARDED: u8 = 8;
}

/// Bits of [`Flow::peer`].
pub mod peer {
    /// The other direction has sent a FIN.
    pub const FIN: u8 = 1;
}

/// How a flow ended, as the ring buffer and [`Flow::closed`] have it.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both FINs were acknowledged.
    Finished = 1,
    /// The client sent a RST that the endpoint takes.
    ClientReset = 2,
    /// The endpoint sent a RST that the client takes.
    EndpointReset = 3,
}

impl End {
    /// What a number of the kernel's means.
    pub const fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Finished),
            2 => Some(Self::ClientReset),
            3 => Some(Self::EndpointReset),
            _ => None,
        }
    }
}

/// What the ring buffer carries when a flow has ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct Ended {
    /// [`Flow::id`].
    pub id: u32,
    /// An [`End`].
    pub end: u32,
    /// Bytes from the client to the endpoint, the hello included.
    pub up: u64,
    /// Bytes from the endpoint to the client.
    pub down: u64,
}

/// By which interface a direction leaves from now on, as the program that changes that finds it in a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct Led {
    /// Whose packets.
    pub key: FlowKey,
    /// [`Flow::id`]; another flow with that key is left alone.
    pub id: u32,
    /// [`Flow::ifindex`].
    pub ifindex: u32,
    /// [`Flow::mtu`].
    pub mtu: u16,
    /// 1 for [`option::SHORTCUT`], else 0. Older programs of this version do not look at it.
    pub shortcut: u16,
}

impl Flow {
    /// Bytes of the stream that were sent so far.
    #[inline(always)] // part of a kernel program
    pub const fn bytes(&self) -> u64 {
        let fin = (self.own & own::FIN) as u64;
        self.end.wrapping_sub(self.start as u64).wrapping_sub(fin)
    }

    /// Up to where the sender is ready to receive, by an acknowledgement and its window field.
    #[inline(always)] // as above
    pub const fn edge(&self, ack: u32, window: u16) -> u32 {
        ack.wrapping_add((window as u32) << (self.options >> 4))
    }
}

/// The clock of [`Flow::seen`]: about a second, and nothing to divide.
pub const fn tick(monotonic_ns: u64) -> u32 {
    (monotonic_ns >> 30) as u32
}

/// The time between two readings of that clock; nothing where they are in the other order, since not
/// everybody reads it as exactly.
pub const fn since(then: u32, now: u32) -> Duration {
    let ticks = now.wrapping_sub(then);
    let ticks = if ticks > u32::MAX / 2 { 0 } else { ticks };
    Duration::from_nanos((ticks as u64) << 30)
}

/// Whether `a` comes before `b` (RFC 9293, section 3.4).
pub const fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

impl FlowKey {
    /// The key of packets that answer those which leave by `flow`.
    pub const fn answers(flow: &Flow) -> Self {
        Self {
            src: flow.dst,
            dst: flow.src,
            // The first two bytes and the last two, whatever the byte order.
            ports: flow.ports.rotate_left(16),
        }
    }

    /// The port that the packet is for, in host order.
    pub const fn dport(&self) -> u16 {
        let [_, _, high, low] = self.ports.to_ne_bytes();
        u16::from_be_bytes([high, low])
    }
}

/// Source and destination port as a TCP header starts with them.
pub const fn ports(source: u16, destination: u16) -> u32 {
    let [s0, s1] = source.to_be_bytes();
    let [d0, d1] = destination.to_be_bytes();
    u32::from_ne_bytes([s0, s1, d0, d1])
}

/// Source and destination port, in host order.
pub const fn port_numbers(ports: u32) -> [u16; 2] {
    let [s0, s1, d0, d1] = ports.to_ne_bytes();
    [u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])]
}

/// An IPv4 address, of its four bytes as a word in network order.
pub const fn v4(word: u32) -> Addr {
    [0, 0, 0xffff_u32.to_be(), word]
}

/// An IPv6 address, or a v4-mapped one, of its bytes.
pub fn v6(bytes: [u8; 16]) -> Addr {
    zerocopy::transmute!(bytes)
}

/// An address as everybody else has it; a v4-mapped one is an IPv4 address.
pub fn address(addr: &Addr) -> IpAddr {
    let bytes: [u8; 16] = zerocopy::transmute!(*addr);
    Ipv6Addr::from(bytes).to_canonical()
}

const _: () = assert!(size_of::<FlowKey>() == 36);
// What the kernel adds to an entry of a hash (48 bytes of struct htab_elem, kernel/bpf/hashtab.c, and 8
// of bpf_mem_alloc_init(), kernel/bpf/memalloc.c), the key rounded up to 40, and this make 192 bytes,
// which is a size that the allocator has. The next one is 256.
const _: () = assert!(size_of::<Flow>() == 96);
const _: () = assert!(size_of::<Ended>() == 24);
