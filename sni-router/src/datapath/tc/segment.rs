//! TCP segments that are sent without a socket.

use std::net::{IpAddr, SocketAddr};

/// A segment of a connection with timestamps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment<'p> {
    pub(super) from: SocketAddr,
    /// Of the same family.
    pub(super) to: SocketAddr,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
    /// TSval and TSecr.
    pub(super) clocks: [u32; 2],
    /// What a SYN asks for: bytes of the largest segment, and the scale of windows.
    pub(super) syn: Option<(u16, u8)>,
    pub(super) payload: &'p [u8],
}

impl Segment<'_> {
    /// The packet, IP header included. That of IPv4 is without its checksum, which the kernel fills in.
    pub(super) fn packet(&self) -> Vec<u8> {
        let mut tcp = self.header();
        tcp.extend_from_slice(self.payload);
        let len = tcp.len() as u32;
        let mut packet = Vec::with_capacity(IPV6_HEADER + tcp.len());
        let mut pseudo = Vec::with_capacity(40);
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let total = (IPV4_HEADER as u32 + len) as u16;
                packet.extend([0x45, 0]);
                packet.extend(total.to_be_bytes());
                // No number, but "don't fragment": the kernel chooses the one for the other.
                packet.extend([0, 0, 0x40, 0, TTL, TCP, 0, 0]);
                packet.extend(from.octets());
                packet.extend(to.octets());
                pseudo.extend(from.octets());
                pseudo.extend(to.octets());
            }
            (from, to) => {
                let [from, to] = [from, to].map(v6);
                packet.extend([0x60, 0, 0, 0]);
                packet.extend((len as u16).to_be_bytes());
                packet.extend([TCP, TTL]);
                packet.extend(from);
                packet.extend(to);
                pseudo.extend(from);
                pseudo.extend(to);
            }
        }
        pseudo.extend(len.to_be_bytes());
        pseudo.extend(u32::from(TCP).to_be_bytes());
        let sum = !fold(sum(&pseudo) + sum(&tcp));
        tcp[TCP_SUM..TCP_SUM + 2].copy_from_slice(&sum.to_be_bytes());
        packet.extend_from_slice(&tcp);
        packet
    }

    /// Of TCP, with a checksum of zero.
    fn header(&self) -> Vec<u8> {
        let mut options = Vec::with_capacity(20);
        if let Some((segment, scale)) = self.syn {
            let [high, low] = segment.to_be_bytes();
            options.extend([MSS, 4, high, low, SACK_PERMITTED, 2]);
            self.timestamps(&mut options);
            options.extend([NOP, SCALE, 3, scale]);
        } else {
            options.extend([NOP, NOP]);
            self.timestamps(&mut options);
        }
        let mut header = Vec::with_capacity(TCP_HEADER + options.len() + self.payload.len());
        header.extend(self.from.port().to_be_bytes());
        header.extend(self.to.port().to_be_bytes());
        header.extend(self.seq.to_be_bytes());
        header.extend(self.ack.to_be_bytes());
        let words = (TCP_HEADER + options.len()) / 4;
        header.extend([(words << 4) as u8, self.flags]);
        header.extend(self.window.to_be_bytes());
        header.extend([0; 4]);
        header.extend(options);
        header
    }

    fn timestamps(&self, options: &mut Vec<u8>) {
        options.extend([TIMESTAMPS, 10]);
        options.extend(self.clocks.map(u32::to_be_bytes).as_flattened());
    }
}

fn v6(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    }
}

/// The one's complement sum of 16-bit words (RFC 1071), not folded yet.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let words = words
        .iter()
        .map(|word| u64::from(u16::from_be_bytes(*word)));
    let rest = rest.iter().map(|byte| u64::from(*byte) << 8);
    words.sum::<u64>() + rest.sum::<u64>()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const PSH: u8 = 8;
pub(super) const ACK: u8 = 16;

/// Bytes of headers.
pub(super) const IPV4_HEADER: usize = 20;
pub(super) const IPV6_HEADER: usize = 40;
pub(super) const TCP_HEADER: usize = 20;
/// Bytes of a timestamps option with two NOPs.
pub(super) const CLOCKS: usize = 12;

/// As the kernel's own.
const TTL: u8 = 64;
/// Where the checksum is in the TCP header.
const TCP_SUM: usize = 16;

// https://www.iana.org/assignments/protocol-numbers and /tcp-parameters
const TCP: u8 = 6;
const NOP: u8 = 1;
const MSS: u8 = 2;
const SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const TIMESTAMPS: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn segment<'p>(from: &str, to: &str, payload: &'p [u8]) -> Segment<'p> {
        Segment {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            seq: 0x0102_0304,
            ack: 0x0506_0708,
            flags: SYN | ACK,
            window: 0xabcd,
            clocks: [1, 2],
            syn: Some((1460, 7)),
            payload,
        }
    }

    #[test]
    fn syn_is_as_on_the_wire() {
        let packet = segment("192.0.2.1:1025", "198.51.100.2:443", b"").packet();
        assert_eq!(packet.len(), 60);
        assert_eq!(packet[..4], [0x45, 0, 0, 60]);
        assert_eq!(
            packet[12..24],
            [192, 0, 2, 1, 198, 51, 100, 2, 4, 1, 1, 187]
        );
        assert_eq!(
            packet[24..36],
            [1, 2, 3, 4, 5, 6, 7, 8, 0xa0, 0x12, 0xab, 0xcd]
        );
        let options = [
            2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7,
        ];
        assert_eq!(packet[40..], options);
    }

    /// What a receiver adds up, its pseudo-header included, is all ones.
    #[test]
    fn checksums_are_right_for_any_length_of_both_families() {
        for len in 0..20 {
            let payload: Vec<u8> = (0..len).map(|n| 200 + n).collect();
            for (from, to, ip) in [
                ("192.0.2.1:1", "198.51.100.2:2", 20),
                ("[2001:db8::1]:1", "[2001:db8::2]:2", 40),
            ] {
                let mut segment = segment(from, to, &payload);
                segment.syn = None;
                let packet = segment.packet();
                assert_eq!(packet.len(), ip + 32 + usize::from(len));
                let addresses = if ip == 20 { 12..20 } else { 8..40 };
                let length = (packet.len() - ip) as u64;
                let all = sum(&packet[addresses]) + length + 6 + sum(&packet[ip..]);
                assert_eq!(fold(all), 0xffff, "{from} {len}");
            }
        }
    }
}
