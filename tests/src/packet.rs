//! Packets, byte by byte, with their checksums computed the slow way.

use std::net::{IpAddr, SocketAddr};

/// A TCP packet.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Who sends it.
    pub src: SocketAddr,
    /// To whom.
    pub dst: SocketAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement.
    pub ack: u32,
    /// FIN, SYN, RST, PSH, ACK … as in the header's 14th byte.
    pub flags: u8,
    /// The window's field.
    pub window: u16,
    /// A multiple of four bytes.
    pub options: Vec<u8>,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Segment {
    /// Without options or payload: an acknowledgement.
    pub fn new(src: SocketAddr, dst: SocketAddr) -> Self {
        Self {
            src,
            dst,
            ttl: 64,
            seq: 0,
            ack: 0,
            flags: ACK,
            window: 1000,
            options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// The TCP header and what follows, with a checksum.
    pub fn tcp(&self) -> Vec<u8> {
        let offset = (5 + self.options.len() / 4) as u8;
        let mut tcp = [self.src.port().to_be_bytes(), self.dst.port().to_be_bytes()].concat();
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([offset << 4, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(&self.options);
        tcp.extend(&self.payload);
        let pseudo = pseudo(self.src.ip(), self.dst.ip(), TCP, tcp.len());
        let sum = checksum(&[pseudo, tcp.clone()].concat());
        tcp[16..18].copy_from_slice(&sum);
        tcp
    }

    /// The whole packet, without a link-layer header.
    pub fn ip(&self) -> Vec<u8> {
        ip(self.src.ip(), self.dst.ip(), self.ttl, TCP, &self.tcp())
    }
}

/// An IP packet.
pub fn ip(src: IpAddr, dst: IpAddr, ttl: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = (20 + payload.len()) as u16;
            let mut header = vec![0x45, 0];
            header.extend(total.to_be_bytes());
            header.extend([0, 0, 0x40, 0, ttl, protocol, 0, 0]);
            header.extend(src.octets());
            header.extend(dst.octets());
            seal(&mut header);
            header
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend((payload.len() as u16).to_be_bytes());
            header.extend([protocol, ttl]);
            header.extend(src.octets());
            header.extend(dst.octets());
            header
        }
        _ => panic!("mixed families"),
    };
    packet.extend(payload);
    packet
}

/// Computes the checksum of an IPv4 header.
pub fn seal(header: &mut [u8]) {
    header[10..12].copy_from_slice(&[0, 0]);
    let sum = checksum(header);
    header[10..12].copy_from_slice(&sum);
}

/// An ICMP packet: `kind` is type and code, `word` what follows the checksum.
pub fn icmp(src: IpAddr, dst: IpAddr, ttl: u8, kind: [u8; 2], word: u32, quoted: &[u8]) -> Vec<u8> {
    let mut icmp = vec![kind[0], kind[1], 0, 0];
    icmp.extend(word.to_be_bytes());
    icmp.extend(quoted);
    let (protocol, covered) = if src.is_ipv4() {
        (ICMP, icmp.clone())
    } else {
        let pseudo = pseudo(src, dst, ICMPV6, icmp.len());
        (ICMPV6, [pseudo, icmp.clone()].concat())
    };
    icmp[2..4].copy_from_slice(&checksum(&covered));
    ip(src, dst, ttl, protocol, &icmp)
}

/// Puts an Ethernet header in front, from nobody to the loopback interface's address.
pub fn ether(packet: &[u8]) -> Vec<u8> {
    ether_between([0; 6], [0; 6], packet)
}

/// Puts an Ethernet header with these addresses in front.
pub fn ether_between(from: [u8; 6], to: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let kind = if packet.first().is_some_and(|byte| byte >> 4 == 6) {
        [0x86, 0xdd]
    } else {
        [0x08, 0x00]
    };
    [&to[..], &from, &kind, packet].concat()
}

/// Puts an 802.1Q tag with this control information into a frame: priority and number of a VLAN.
pub fn tagged(frame: &[u8], control: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    let tag = [VLAN.to_be_bytes(), control.to_be_bytes()].concat();
    [addresses, &tag, rest].concat()
}

/// A frame without its tag; `None` for one of another VLAN. Without a tag, it is of VLAN 0.
pub fn untagged(frame: &[u8], control: u16) -> Option<Vec<u8>> {
    let number = control & 0xfff;
    let (addresses, rest) = frame.split_at_checked(12)?;
    match *rest {
        [a, b, c, d, ref rest @ ..] if u16::from_be_bytes([a, b]) == VLAN => {
            let of = u16::from_be_bytes([c, d]) & 0xfff;
            (of == number).then(|| [addresses, rest].concat())
        }
        _ => (number == 0).then(|| frame.to_vec()),
    }
}

/// The pseudo-header that a checksum covers, too (RFC 9293, section 3.1).
pub fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    let mut bytes = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => [src.octets(), dst.octets()].concat(),
        (IpAddr::V6(src), IpAddr::V6(dst)) => [src.octets(), dst.octets()].concat(),
        _ => panic!("mixed families"),
    };
    bytes.extend(u32::from(protocol).to_be_bytes());
    bytes.extend((len as u32).to_be_bytes());
    bytes
}

/// The Internet checksum (RFC 1071) of bytes whose own checksum is 0.
pub fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&byte| u32::from(byte));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// Flags of a TCP header.
pub const FIN: u8 = 1;
/// As above.
pub const SYN: u8 = 2;
/// As above.
pub const RST: u8 = 4;
/// As above.
pub const ACK: u8 = 16;

/// The EtherType of an 802.1Q tag.
const VLAN: u16 = 0x8100;

/// Protocols of an IP header.
pub const ICMP: u8 = 1;
/// As above.
pub const TCP: u8 = 6;
/// As above.
pub const ICMPV6: u8 = 58;
