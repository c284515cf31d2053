//! Packets that the program takes for the daemon: those of connections that are being opened without
//! a socket.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::flow::FlowKey;
use crate::handshake::seen;

/// A packet, as the ring buffer has it; as many bytes of payload as [`Taken::len`] says are behind it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct Taken {
    /// Addresses and ports.
    pub key: FlowKey,
    /// See [`kind`].
    pub kind: u32,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement.
    pub ack: u32,
    /// Timestamp.
    pub tsval: u32,
    /// Timestamp echo.
    pub tsecr: u32,
    /// What was [seen] of its sender, this packet included.
    pub flags: u32,
    /// When its sender's SYN came, or the daemon began to wait for it, in
    /// [milliseconds](crate::handshake::millis).
    pub since: u32,
    /// The interface it came in by.
    pub ifindex: u32,
    /// The window's field.
    pub window: u16,
    /// Bytes of payload.
    pub len: u16,
    /// By how many bits the windows of this host are scaled that has answered a client's SYN. Only of
    /// [`kind::FIRST`].
    pub own_scale: u32,
}

/// Where the kernel's `struct tcp_request_sock` has what the program reads of it; all zero where that is not
/// known, and then nothing is taken. In bytes, but for the shift.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct Request {
    /// The number of the client's SYN.
    pub received: u32,
    /// The number of the SYN-ACK.
    pub sent: u32,
    /// The byte in which the scale of this host's windows is.
    pub scale: u32,
    /// By how many bits it is to be shifted there.
    pub shift: u32,
}

/// Bytes of such a struct that are read.
pub const REQUEST_BYTES: u32 = 384;

/// What a packet is.
pub mod kind {
    /// The client's first one with payload.
    pub const FIRST: u32 = 1;
    /// The next one of a client of which one was taken.
    pub const NEXT: u32 = 2;
    /// The answer to a SYN of the daemon's: SYN-ACK.
    pub const ANSWER: u32 = 3;
    /// The same: RST.
    pub const REFUSAL: u32 = 4;
}

/// What a CPU makes such a packet in. In the kernel this lies in a map.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    /// What goes first.
    pub taken: Taken,
    /// The payload.
    pub payload: [u8; MAX_PAYLOAD],
}

/// Most bytes of payload of a packet that is taken: a hello of today, be it merged from several segments, and
/// a part of what a client may send behind it. Half of what an entry of a CPU may have.
pub const MAX_PAYLOAD: usize = 16 * 1024 - size_of::<Taken>();

/// How long after its SYN a client belongs to the daemon at most, in ms: longer than that takes to open a connection,
/// and not so long that nobody resets those of a daemon that was killed.
pub const MOST_TAKEN: u32 = 3_000;

/// Whether a handshake with these [flags](crate::handshake::seen) is that of a connection that is being opened, `age`
/// ms after its SYN: its packets are the daemon's, and the stack would reset it.
#[inline(always)] // part of a kernel program
pub const fn is_opening(flags: u32, age: u32) -> bool {
    flags & (seen::TAKEN | seen::AWAITED) != 0 && age <= MOST_TAKEN
}

/// Until when clients of an interface are taken, as the daemon has it written down: one word for each
/// interface, by the last bits of its number. So that nobody is taken by a program whose daemon is gone, that
/// is soon.
pub mod until {
    /// How many words there are; a page.
    pub const WORDS: u32 = 512;

    /// Which word is that of an interface.
    pub const fn index(ifindex: u32) -> u32 {
        ifindex % WORDS
    }

    /// What it says: until a moment in [milliseconds](crate::handshake::millis).
    pub const fn word(ifindex: u32, until: u32) -> u64 {
        (ifindex as u64) << 32 | until as u64
    }

    /// Whether that has not passed, for this interface. What is further ahead than it is ever written down has
    /// passed long ago: the clock wraps.
    pub const fn is_ahead(word: u64, ifindex: u32, now: u32) -> bool {
        let ahead = (word as u32).wrapping_sub(now);
        (word >> 32) as u32 == ifindex && ahead != 0 && ahead <= MOST
    }

    /// How far ahead that is at most, in ms; for all versions, since one waits for what another has left.
    pub const MOST: u32 = 2_000;
}

const _: () = assert!(size_of::<Taken>() == 76);
const _: () = assert!(size_of::<Buffer>() == 16 * 1024);
const _: () = assert!(REQUEST_BYTES as usize <= MAX_PAYLOAD);

#[cfg(test)]
mod tests {
    use super::until::{index, is_ahead, word};

    #[test]
    fn clients_of_an_interface_are_taken_until_then_and_of_no_other() {
        let now = u32::MAX - 5;
        let said = word(7, now.wrapping_add(10));
        assert!(is_ahead(said, 7, now));
        assert!(is_ahead(said, 7, now.wrapping_add(9)));
        assert!(!is_ahead(said, 7, now.wrapping_add(10)));
        assert!(!is_ahead(said, 7 + super::until::WORDS, now));
        assert_eq!(index(7), index(7 + super::until::WORDS));
        assert!(!is_ahead(0, 7, 0));
        // Written down by a daemon that has been gone for weeks.
        assert!(!is_ahead(said, 7, now.wrapping_sub(1 << 31)));
    }
}
