//! Long streams that can be told from each other, and their hashes.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};

use crate::raw::{End, read_some};

/// Bytes written at once.
const BLOCK: usize = 64 * 1024;

/// How much of a stream there was, and its SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// Bytes.
    pub len: u64,
    sha256: Vec<u8>,
}

/// A hash that grows.
struct Summing {
    len: u64,
    context: Context,
}

impl Summing {
    fn new() -> Self {
        let context = Context::new(&SHA256);
        Self { len: 0, context }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        self.context.update(bytes);
    }

    fn finish(self) -> Sum {
        Sum {
            len: self.len,
            sha256: self.context.finish().as_ref().to_vec(),
        }
    }
}

/// A stream of pseudo-random bytes that does not repeat: every block holds its number.
pub struct Pattern {
    block: Vec<u8>,
    number: u64,
    /// Bytes of the current block that were given out.
    used: usize,
}

impl Pattern {
    /// Streams of different seeds differ everywhere.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let block = (0..BLOCK / 8)
            .flat_map(|_| random.next().to_le_bytes())
            .collect();
        Self {
            block,
            number: 0,
            used: 0,
        }
    }

    /// The next bytes of the stream: at least one, `limit` at most.
    fn next(&mut self, limit: usize) -> &[u8] {
        if self.used == BLOCK {
            self.used = 0;
            self.number += 1;
        }
        if self.used == 0 {
            self.block[..8].copy_from_slice(&self.number.to_le_bytes());
        }
        let start = self.used;
        self.used = BLOCK.min(start + limit);
        &self.block[start..self.used]
    }

    /// The first `len` bytes of the stream.
    pub fn bytes(mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let left = len - bytes.len();
            bytes.extend_from_slice(self.next(left));
        }
        bytes
    }
}

/// Sends the first `len` bytes of a pattern.
pub fn send(mut to: &TcpStream, mut pattern: Pattern, len: u64) -> io::Result<Sum> {
    let mut sum = Summing::new();
    while sum.len < len {
        let limit = usize::try_from(len - sum.len).unwrap_or(usize::MAX);
        let bytes = pattern.next(limit);
        to.write_all(bytes)?;
        sum.update(bytes);
    }
    Ok(sum.finish())
}

/// Sends a pattern: at least `len` bytes, and then on until `is_over`.
pub fn send_until(
    mut to: &TcpStream,
    mut pattern: Pattern,
    len: u64,
    mut is_over: impl FnMut() -> bool,
) -> io::Result<Sum> {
    let mut sum = Summing::new();
    while sum.len < len || !is_over() {
        let bytes = pattern.next(usize::MAX);
        to.write_all(bytes)?;
        sum.update(bytes);
    }
    Ok(sum.finish())
}

/// Sends a pattern until the stream takes no more for `stall`, and then says what it took.
pub fn send_until_stalled(mut to: &TcpStream, mut pattern: Pattern, stall: Duration) -> Sum {
    let mut sum = Summing::new();
    to.set_write_timeout(Some(stall))
        .expect("set a write timeout");
    loop {
        let bytes = pattern.next(usize::MAX);
        let mut written = 0;
        while written < bytes.len() {
            match to.write(&bytes[written..]) {
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    sum.update(&bytes[..written]);
                    return sum.finish();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => panic!("write: {e}"),
            }
        }
        sum.update(bytes);
    }
}

/// Receives to the end of the stream; panics when `limit` passes first.
#[track_caller]
pub fn receive(from: &TcpStream, limit: Duration) -> (Sum, End) {
    let deadline = Instant::now() + limit;
    let mut sum = Summing::new();
    let mut chunk = vec![0; 4 * BLOCK];
    loop {
        match read_some(from, &mut chunk, deadline) {
            Ok(n) => sum.update(&chunk[..n]),
            Err(end) => return (sum.finish(), end),
        }
    }
}

/// The sum of bytes in memory.
pub fn sum(bytes: &[u8]) -> Sum {
    let mut sum = Summing::new();
    sum.update(bytes);
    sum.finish()
}

/// splitmix64 (Steele, Lea, Flood 2014): enough to fill buffers and pick lengths repeatably.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_cut_at_any_length_is_the_same_stream() {
        let whole = Pattern::new(7).bytes(3 * BLOCK);
        let mut pattern = Pattern::new(7);
        let mut cut = Vec::new();
        for limit in [1, 7, BLOCK, BLOCK - 9, 100].iter().cycle() {
            if cut.len() >= whole.len() {
                break;
            }
            cut.extend_from_slice(pattern.next(*limit));
        }
        assert_eq!(whole, cut[..whole.len()]);
        assert_ne!(whole[..BLOCK], whole[BLOCK..2 * BLOCK]);
    }
}
