//! Handshakes under way: a table in memory that the kernel program and the daemon share.
//!
//! Each key has one set of slots in which it can be; the oldest of a set goes when a new handshake
//! needs its place. There are no locks, since programs have none that the daemon could take: each
//! word of a slot carries, beside four bytes of what it says, half of a [`Tag`] of its key. Words
//! of two keys in one slot, which happens when CPUs fill it at the same time, are so known for what
//! they are, and nobody believes them. Whoever is not found is carried by another datapath.

use crate::flow::FlowKey;

/// Slots in which a key can be.
pub const WAYS: usize = 4;

/// How many sets there are, behind one whose first two words are the secret of tags. Zero until the
/// daemon has put one in; then nothing is remembered.
pub const SETS: u32 = 16_384;

/// The map's entries: the slots of one set after the other.
pub const ENTRIES: u32 = (1 + SETS) * WAYS as u32;

/// A place for a handshake, by the numbers in [`word`]: the value of the map. Not a whole set, so that
/// the kernel's verifier has one case to look at, whichever slot it is.
pub type Slot = [u64; 8];

/// Which word of a [`Slot`] has which number of [`Seen`].
#[allow(missing_docs, reason = "each is named as there")]
pub mod word {
    pub const ISN: usize = 0;
    pub const END: usize = 1;
    pub const ACK: usize = 2;
    pub const TSVAL: usize = 3;
    pub const TSECR: usize = 4;
    pub const IFINDEX: usize = 5;
    pub const FLAGS: usize = 6;
    pub const SINCE: usize = 7;
}

/// What the program saw of one side before the hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The sequence number of its SYN.
    pub isn: u32,
    /// The highest sequence number that went to the local stack, FIN included.
    pub end: u32,
    /// The last acknowledgement.
    pub ack: u32,
    /// The last timestamp.
    pub tsval: u32,
    /// The last timestamp echo.
    pub tsecr: u32,
    /// The interface it came in by.
    pub ifindex: u32,
    /// See [`seen`].
    pub flags: u32,
    /// When the SYN came, in [milliseconds](millis).
    pub since: u32,
}

/// Bits of [`Seen::flags`].
pub mod seen {
    /// The last packet had timestamps.
    pub const TIMESTAMPS: u32 = 1;
    /// A FIN went to the local stack.
    pub const FIN: u32 = 2;
    /// A RST went to the local stack.
    pub const RST: u32 = 4;
    /// An option signs the header, which we rewrite: TCP-MD5 (RFC 2385) or TCP-AO (RFC 5925).
    pub const SIGNED: u32 = 8;
    /// The sender counts congestion marks from its first packet on (Accurate ECN, RFC 9768).
    pub const COUNTS_MARKS: u32 = 16;
    /// Its SYN permits SACK.
    pub const SACK: u32 = 32;
    /// Its SYN scales windows; see [`scale`].
    pub const SCALED: u32 = 64;
    /// Its SYN asks for ECN, or grants it.
    pub const ECN: u32 = 128;
    /// Packets of this key go to the daemon instead of the stack.
    pub const TAKEN: u32 = 1 << 12;
    /// One that is no SYN has gone to the stack.
    pub const PASSED: u32 = 1 << 13;
    /// By the daemon: what answers its SYN, whose number is in [`Seen::isn`](super::Seen), is for it.
    pub const AWAITED: u32 = 1 << 14;
    /// By the daemon: a socket of its own has the connection, that has not shaken hands itself.
    pub const RESUMED: u32 = 1 << 15;

    /// Flags that say how far the windows of a SYN's sender are scaled: at most 14 bits (RFC 7323,
    /// section 2.3).
    pub const fn scaled(bits: u8) -> u32 {
        let bits = if bits > 14 { 14 } else { bits };
        SCALED | (bits as u32) << 8
    }

    /// How far that is.
    pub const fn scale(flags: u32) -> i8 {
        (flags >> 8 & 15) as i8
    }

    /// Flags that say which segments a SYN's sender takes.
    pub const fn segments(bytes: u16) -> u32 {
        (bytes as u32) << 16
    }

    /// How many bytes those are; 0 if it did not say.
    pub const fn segment(flags: u32) -> u32 {
        flags >> 16
    }
}

/// The clock of [`Seen::since`], which wraps after 49 days.
pub const fn millis(monotonic_ns: u64) -> u32 {
    (monotonic_ns / 1_000_000) as u32
}

/// 64 bits that stand for a key. Nobody without the secret finds two keys that have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(u64);

impl Tag {
    /// The tag of a key: SipHash-1-3 of its bytes (Aumasson and Bernstein, 2012), with a bit set in
    /// either half, so that an empty word is nobody's.
    #[inline(always)] // part of a kernel program
    pub const fn of(key: &FlowKey, secret: [u64; 2]) -> Self {
        let FlowKey { src, dst, ports } = key;
        let mut sip = Sip::new(secret);
        sip.take(pair(src[0], src[1]));
        sip.take(pair(src[2], src[3]));
        sip.take(pair(dst[0], dst[1]));
        sip.take(pair(dst[2], dst[3]));
        sip.take(pair(*ports, (size_of::<FlowKey>() as u32) << 24));
        Self(sip.finish() | 1 << 32 | 1)
    }

    /// As a number, which is not 0.
    #[inline(always)] // as above
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Of such a number.
    #[inline(always)] // as above
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The first slot in which the key can be, by its index in the map.
    #[inline(always)] // as above
    pub const fn first(self) -> u32 {
        (1 + (self.0 >> 8) as u32 % SETS) * WAYS as u32
    }

    /// A word of the key's slot.
    #[inline(always)] // as above
    pub const fn word(self, index: usize, value: u32) -> u64 {
        self.half(index) << 32 | value as u64
    }

    /// What a word says; `None` if it is not the key's.
    #[inline(always)] // as above
    pub const fn value(self, index: usize, word: u64) -> Option<u32> {
        if word >> 32 == self.half(index) {
            Some(word as u32)
        } else {
            None
        }
    }

    const fn half(self, index: usize) -> u64 {
        if index & 1 == 0 {
            self.0 >> 32
        } else {
            self.0 & 0xffff_ffff
        }
    }
}

impl Seen {
    /// As a slot has it.
    #[inline(always)] // as above
    pub const fn slot(&self, tag: Tag) -> Slot {
        [
            tag.word(word::ISN, self.isn),
            tag.word(word::END, self.end),
            tag.word(word::ACK, self.ack),
            tag.word(word::TSVAL, self.tsval),
            tag.word(word::TSECR, self.tsecr),
            tag.word(word::IFINDEX, self.ifindex),
            tag.word(word::FLAGS, self.flags),
            tag.word(word::SINCE, self.since),
        ]
    }

    /// What a slot says of a key; `None` if it is another one's, be it only in part.
    pub fn read(tag: Tag, slot: &Slot) -> Option<Self> {
        let value = |index| tag.value(index, slot[index]);
        Some(Self {
            isn: value(word::ISN)?,
            end: value(word::END)?,
            ack: value(word::ACK)?,
            tsval: value(word::TSVAL)?,
            tsecr: value(word::TSECR)?,
            ifindex: value(word::IFINDEX)?,
            flags: value(word::FLAGS)?,
            since: value(word::SINCE)?,
        })
    }
}

/// Two words as SipHash takes eight bytes of memory.
const fn pair(first: u32, second: u32) -> u64 {
    first.to_le() as u64 | (second.to_le() as u64) << 32
}

/// The state of SipHash.
struct Sip([u64; 4]);

impl Sip {
    #[inline(always)] // part of a kernel program
    const fn new([k0, k1]: [u64; 2]) -> Self {
        Self([
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ])
    }

    #[inline(always)] // as above
    const fn take(&mut self, block: u64) {
        self.0[3] ^= block;
        self.round();
        self.0[0] ^= block;
    }

    #[inline(always)] // as above
    const fn finish(mut self) -> u64 {
        self.0[2] ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.0[0] ^ self.0[1] ^ self.0[2] ^ self.0[3]
    }

    #[inline(always)] // as above
    const fn round(&mut self) {
        let [mut v0, mut v1, mut v2, mut v3] = self.0;
        v0 = v0.wrapping_add(v1);
        v2 = v2.wrapping_add(v3);
        v1 = v1.rotate_left(13) ^ v0;
        v3 = v3.rotate_left(16) ^ v2;
        v0 = v0.rotate_left(32);
        v2 = v2.wrapping_add(v1);
        v0 = v0.wrapping_add(v3);
        v1 = v1.rotate_left(17) ^ v2;
        v3 = v3.rotate_left(21) ^ v0;
        v2 = v2.rotate_left(32);
        self.0 = [v0, v1, v2, v3];
    }
}

const _: () = assert!(SETS.is_power_of_two());
/// A cache line each.
const _: () = assert!(size_of::<Slot>() == 64);

#[cfg(test)]
mod tests {
    use core::hash::Hasher as _;

    use siphasher::sip::SipHasher13;
    use zerocopy::IntoBytes as _;

    use super::*;

    const SECRET: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

    const fn key(port: u32) -> FlowKey {
        FlowKey {
            src: [0, 0, 0xffff, 0x0102_0304],
            dst: [0x2001_0db8, 7, 8, 9],
            ports: port,
        }
    }

    fn seen(n: u32) -> Seen {
        Seen {
            isn: n,
            end: n + 1,
            ack: n + 2,
            tsval: n + 3,
            tsecr: n + 4,
            ifindex: n + 5,
            flags: n + 6,
            since: n + 7,
        }
    }

    #[test]
    fn tag_is_siphash_of_the_keys_bytes() {
        for port in [0, 1, 443, u32::MAX] {
            let key = key(port);
            let mut reference = SipHasher13::new_with_keys(SECRET[0], SECRET[1]);
            reference.write(key.as_bytes());
            let expected = reference.finish() | 0x1_0000_0001;
            assert_eq!(Tag::of(&key, SECRET).0, expected);
        }
    }

    #[test]
    fn slot_says_what_was_put_in_and_only_of_its_key() {
        let (tag, other) = (Tag::of(&key(1), SECRET), Tag::of(&key(2), SECRET));
        let slot = seen(0xffff_fff0).slot(tag);
        assert_eq!(Seen::read(tag, &slot), Some(seen(0xffff_fff0)));
        assert_eq!(Seen::read(other, &slot), None);
        assert_eq!(Seen::read(tag, &[0; 8]), None);
    }

    #[test]
    fn slot_of_two_keys_is_nobodys() {
        let (tag, other) = (Tag::of(&key(1), SECRET), Tag::of(&key(2), SECRET));
        let (mine, theirs) = (seen(10).slot(tag), seen(20).slot(other));
        // Every way in which two could have written into it but those in which one was last.
        for mix in 1..u8::MAX {
            let slot = core::array::from_fn(|index| match mix >> index & 1 {
                0 => mine[index],
                _ => theirs[index],
            });
            assert_eq!(Seen::read(tag, &slot), None);
            assert_eq!(Seen::read(other, &slot), None);
        }
    }

    #[test]
    fn keys_spread_over_all_sets_and_never_where_the_secret_is() {
        let mut lowest = u32::MAX;
        let mut highest = 0;
        for port in 0..200_000 {
            let first = Tag::of(&key(port), SECRET).first();
            (lowest, highest) = (lowest.min(first), highest.max(first));
        }
        let ways = WAYS as u32;
        assert_eq!((lowest, highest), (ways, ENTRIES - ways));
    }
}
