//! Streams of known content.
//!
//! All streams are one endless repetition of a table of pseudo-random bytes, begun at different
//! places. Its length is a prime, so a page, a pipe's or a buffer's worth of bytes that is lost,
//! repeated or swapped never goes unnoticed. Making a stream costs nothing, and checking it is one
//! comparison of memory that stays in the cache.

use sni_router_tests::bulk;

/// After this many bytes a stream repeats itself; a prime.
const PERIOD: usize = 65_521;

/// Bytes read or written at once, at most.
pub const CHUNK: usize = 256 * 1024;

/// The table, and the beginning of its repetition.
pub struct Table(Vec<u8>);

impl Table {
    /// Always the same.
    pub fn new() -> Self {
        let once = bulk::Pattern::new(SEED).bytes(PERIOD);
        Self(once.iter().copied().cycle().take(PERIOD + CHUNK).collect())
    }
}

/// A place in a stream.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    at: usize,
}

impl Cursor {
    /// The beginning of what the client sends on a connection with this number.
    pub fn up(number: u64) -> Self {
        Self::begin(number.wrapping_mul(2))
    }

    /// The beginning of what the endpoint sends on a connection with this number.
    pub fn down(number: u64) -> Self {
        Self::begin(number.wrapping_mul(2).wrapping_add(1))
    }

    fn begin(stream: u64) -> Self {
        // Far apart for streams that follow each other (Fibonacci hashing, Knuth 6.4).
        let spread = stream.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        Self {
            at: spread as usize % PERIOD,
        }
    }

    /// The next bytes, [`CHUNK`] at most.
    pub fn bytes(self, table: &Table, len: usize) -> &[u8] {
        &table.0[self.at..self.at + len.min(CHUNK)]
    }

    /// Goes on by this many bytes, of any number.
    pub fn advance(&mut self, len: usize) {
        self.at = (self.at + len) % PERIOD;
    }

    /// Whether these are the next bytes; goes on behind them. [`CHUNK`] at most.
    #[must_use]
    pub fn check(&mut self, table: &Table, bytes: &[u8]) -> bool {
        let expected = self.bytes(table, bytes.len());
        self.advance(bytes.len());
        expected == bytes
    }
}

/// Which reads of a stream are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// Whether not all of them are.
    is_on: bool,
    reads: u32,
}

impl Sampling {
    /// All of them, or one of [`SAMPLED`].
    pub fn new(is_on: bool) -> Self {
        Self { is_on, reads: 0 }
    }

    /// Whether the next one is. What comes then is right only if nothing before was lost or came twice.
    pub fn looks(&mut self) -> bool {
        self.reads = self.reads.wrapping_add(1);
        !self.is_on || self.reads.is_multiple_of(SAMPLED)
    }
}

/// One read of so many is looked at.
pub const SAMPLED: u32 = 16;

const SEED: u64 = 0x5e41;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_is_right_when_cut_at_any_length() {
        let table = Table::new();
        let (mut write, mut read) = (Cursor::up(7), Cursor::up(7));
        let mut sent = Vec::new();
        for len in [1, 100, CHUNK, PERIOD, 3] {
            sent.extend_from_slice(write.bytes(&table, len));
            write.advance(len);
        }
        for piece in sent.chunks(4099) {
            assert!(read.check(&table, piece));
        }
    }

    #[test]
    fn stream_is_wrong_when_bytes_are_lost_changed_or_anothers() {
        let table = Table::new();
        for lost in [1, 4096, 65_536, 131_072] {
            let mut cursor = Cursor::down(1);
            cursor.advance(lost);
            let late = cursor.bytes(&table, 64).to_vec();
            assert!(!Cursor::down(1).check(&table, &late), "{lost} lost");
        }
        let mut changed = Cursor::down(1).bytes(&table, 64).to_vec();
        changed[63] ^= 1;
        assert!(!Cursor::down(1).check(&table, &changed));
        let other = Cursor::down(2).bytes(&table, 64).to_vec();
        assert!(!Cursor::down(1).check(&table, &other));
    }
}
