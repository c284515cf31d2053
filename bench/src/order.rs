//! The hello, and in it what the client wants.
//!
//! It is a real ClientHello as rustls writes it. Its `random` (RFC 8446, 4.1.2), which a router
//! passes on unseen, holds the order and a checksum over the whole hello, so that the endpoint
//! notices if one byte of it was changed on the way. In TLS, where the hello on the wire is made by
//! rustls, this one is the first thing that the client says inside.

use anyhow::{Context as _, Result, ensure};
use sni_router_tests::raw;

/// What the endpoint does after the hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Sends this many bytes, then waits for the end.
    Answer(u32),
    /// Sends until the end.
    Down,
    /// Checks what comes, and answers the hello and every [`UNIT`] bytes with a [`Receipt`].
    Up,
    /// The same, but only samples of what comes are checked.
    UpSampled,
    /// Answers every so many bytes with as many.
    Echo(u32),
}

/// What the endpoint says in [`Order::Up`]: the bytes it got so far, rounded down to [`UNIT`], of which
/// none that was checked is wrong. Not at the end of the stream, since some routers do not pass on a FIN as such.
pub type Receipt = [u8; 8];

/// There is a receipt for every so many bytes.
pub const UNIT: u64 = 1 << 22;

/// A hello that is filled in again for every connection.
pub struct Template {
    bytes: Vec<u8>,
    /// Where the digits of the host's number are.
    digits: std::ops::Range<usize>,
    hosts: std::ops::Range<u64>,
}

impl Template {
    /// A hello for the hosts with these numbers.
    pub fn new(hosts: std::ops::Range<u64>) -> Result<Self> {
        let bytes = raw::hello(&host(0));
        let name = host(0);
        let at = bytes
            .windows(name.len())
            .position(|window| window == name.as_bytes());
        let at = at.context("no server name in the hello")?;
        ensure!(
            hosts.start < hosts.end && hosts.end <= MAX_HOSTS,
            "hosts have numbers below {MAX_HOSTS}"
        );
        Ok(Self {
            bytes,
            digits: at + 1..at + 1 + DIGITS,
            hosts,
        })
    }

    /// The number of the host that the connection with this number is for.
    pub fn host_of(&self, number: u64) -> u64 {
        // Neighbours go to hosts far from each other: 7919 is prime, and no number of hosts in use
        // has it as a factor, so all take turns.
        let count = self.hosts.end - self.hosts.start;
        self.hosts.start + number.wrapping_mul(7919) % count
    }

    /// The hello of the connection with this number.
    pub fn fill(&mut self, order: Order, number: u64) -> &[u8] {
        let mut rest = self.host_of(number);
        for digit in self.bytes[self.digits.clone()].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let (mode, size) = match order {
            Order::Answer(size) => (0, size),
            Order::Down => (1, 0),
            Order::Up => (2, 0),
            Order::Echo(size) => (3, size),
            Order::UpSampled => (4, 0),
        };
        let random = &mut self.bytes[RANDOM];
        random[..4].copy_from_slice(&MAGIC);
        random[4..8].copy_from_slice(&u32::to_le_bytes(mode));
        random[8..12].copy_from_slice(&size.to_le_bytes());
        random[16..24].copy_from_slice(&number.to_le_bytes());
        let sum = checksum(&self.bytes);
        self.bytes[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
        &self.bytes
    }
}

/// The name of a host, of the same length for every number.
pub fn host(number: u64) -> String {
    format!("h{number:0DIGITS$}.bench.test")
}

/// The name that a certificate for every [`host`] has.
pub const HOSTS: &str = "*.bench.test";

/// The length of the hello that begins so, once that can be told.
pub fn length(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(3..5)?;
    Some(HEADER + usize::from(u16::from_be_bytes([length[0], length[1]])))
}

/// What a whole hello asks for, and the number of its connection.
///
/// # Errors
///
/// It is not one of ours, or not as it was sent.
pub fn read(hello: &[u8]) -> Result<(Order, u64)> {
    ensure!(hello.len() > CHECKSUM.end, "too short for a hello");
    let random = &hello[RANDOM];
    ensure!(random[..4] == MAGIC, "not a hello of this program");
    ensure!(
        checksum(hello) == u64::from_le_bytes(hello[CHECKSUM].try_into()?),
        "the hello was changed on its way"
    );
    let size = u32::from_le_bytes(random[8..12].try_into()?);
    let order = match u32::from_le_bytes(random[4..8].try_into()?) {
        0 => Order::Answer(size),
        1 => Order::Down,
        2 => Order::Up,
        3 => Order::Echo(size),
        4 => Order::UpSampled,
        other => anyhow::bail!("no order has the number {other}"),
    };
    Ok((order, u64::from_le_bytes(random[16..24].try_into()?)))
}

/// FNV-1a over eight bytes at a time, the checksum's own place left out.
fn checksum(hello: &[u8]) -> u64 {
    let mix = |sum: u64, word: u64| (sum ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    let mut sum = 0xcbf2_9ce4_8422_2325;
    for part in [&hello[..CHECKSUM.start], &hello[CHECKSUM.end..]] {
        let mut words = part.chunks_exact(8);
        for word in &mut words {
            sum = mix(
                sum,
                word.iter().fold(0, |w, byte| w << 8 | u64::from(*byte)),
            );
        }
        for byte in words.remainder() {
            sum = mix(sum, u64::from(*byte));
        }
    }
    sum
}

/// Of a TLS record (RFC 8446, 5.1).
const HEADER: usize = 5;
/// Behind the record's header, the handshake's of 4 bytes, and the version.
const RANDOM: std::ops::Range<usize> = 11..43;
const CHECKSUM: std::ops::Range<usize> = 35..43;
const MAGIC: [u8; 4] = *b"snir";
const DIGITS: usize = 5;
const MAX_HOSTS: u64 = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_read_back_when_the_hello_is_whole() {
        let mut template = Template::new(0..10).unwrap();
        for order in [
            Order::Answer(2048),
            Order::Down,
            Order::Up,
            Order::UpSampled,
            Order::Echo(64),
        ] {
            let hello = template.fill(order, 77).to_vec();
            assert_eq!(length(&hello), Some(hello.len()));
            assert_eq!(read(&hello).unwrap(), (order, 77));
        }
    }

    #[test]
    fn order_is_refused_when_any_byte_was_changed() {
        let mut template = Template::new(0..10).unwrap();
        let hello = template.fill(Order::Down, 5).to_vec();
        for at in 0..hello.len() {
            let mut changed = hello.clone();
            changed[at] ^= 0x20;
            assert!(read(&changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn hosts_take_turns_when_connections_are_numbered() {
        let mut template = Template::new(0..10_000).unwrap();
        let digits = template.digits.clone();
        let mut names = std::collections::HashSet::new();
        for number in 0..10_000 {
            let hello = template.fill(Order::Down, number);
            names.insert(hello[digits.clone()].to_vec());
        }
        assert_eq!(names.len(), 10_000);
    }
}
