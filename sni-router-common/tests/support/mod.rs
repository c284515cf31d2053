//! Packets as bytes, flows that undo each other, and checksums computed the slow way.
#![allow(dead_code, reason = "each test uses a part")]

use proptest::collection::vec;
use proptest::prelude::*;
use sni_router_common::flow::{Addr, Flow, option, ports, v4};
use sni_router_common::options::{MAX_OPTIONS, Options};
use sni_router_common::rewrite::{self, Ipv4, Ipv6, Tcp};
use zerocopy::{FromBytes, IntoBytes};

/// A TCP packet: an IP header, and everything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub ip: Vec<u8>,
    pub tcp: Vec<u8>,
}

impl Packet {
    pub fn is_v6(&self) -> bool {
        self.ip.len() == 40
    }

    /// Both in one.
    pub fn bytes(&self) -> Vec<u8> {
        [self.ip.clone(), self.tcp.clone()].concat()
    }

    /// Bytes of the TCP header.
    pub fn header(&self) -> usize {
        usize::from(self.tcp[12] >> 4) * 4
    }

    /// Whether both checksums are right.
    pub fn is_intact(&self) -> bool {
        (self.is_v6() || sum(&self.ip) == 0xffff) && sum(&self.covered()) == 0xffff
    }

    /// Makes them right.
    pub fn seal(&mut self) {
        if !self.is_v6() {
            self.ip[10..12].fill(0);
            let value = !sum(&self.ip);
            self.ip[10..12].copy_from_slice(&value.to_be_bytes());
        }
        self.tcp[16..18].fill(0);
        let value = !sum(&self.covered());
        self.tcp[16..18].copy_from_slice(&value.to_be_bytes());
    }

    /// Makes it one without ECN, whose checksums are wrong.
    pub fn clear_ecn(&mut self) {
        self.ip[1] &= if self.is_v6() { 0xcf } else { 0xfc };
        self.tcp[12] &= 0xfe;
        self.tcp[13] &= 0x3f;
    }

    fn covered(&self) -> Vec<u8> {
        let addresses = if self.is_v6() { 8..40 } else { 12..20 };
        let len = self.tcp.len() as u32;
        let rest = [[0, 0, 0, 6], len.to_be_bytes()].concat();
        [self.ip[addresses].to_vec(), rest, self.tcp.clone()].concat()
    }

    /// As the kernel program does it: all headers, then both checksums by what has changed.
    pub fn rewrite(&mut self, flow: &Flow) {
        let mut change = if self.is_v6() {
            let mut ip = Ipv6::read_from_bytes(&self.ip).expect("40 bytes");
            let change = rewrite::ipv6(&mut ip, flow);
            if flow.options & option::NO_ECN != 0 {
                rewrite::no_ecn_v6(&mut ip);
            }
            self.ip = ip.as_bytes().to_vec();
            change
        } else {
            let mut ip = Ipv4::read_from_bytes(&self.ip).expect("20 bytes");
            let change = rewrite::ipv4(&mut ip, flow);
            self.ip = ip.as_bytes().to_vec();
            change
        };
        let mut tcp = Tcp::read_from_bytes(&self.tcp[..20]).expect("20 bytes");
        change += rewrite::tcp(&mut tcp, flow);
        self.tcp[..20].copy_from_slice(tcp.as_bytes());
        change += self.rewrite_options(flow);
        let value = u16::from_ne_bytes([self.tcp[16], self.tcp[17]]);
        let value = rewrite::apply(value, change);
        self.tcp[16..18].copy_from_slice(&value.to_ne_bytes());
    }

    fn rewrite_options(&mut self, flow: &Flow) -> u64 {
        let end = self.header();
        let len = end - 20;
        let mut bytes = [0; MAX_OPTIONS];
        bytes[..len].copy_from_slice(&self.tcp[20..end]);
        let mut options = Options::new(bytes, len as u32);
        let before = options.sum();
        options.rewrite(flow);
        let after = options.sum();
        self.tcp[20..end].copy_from_slice(&options.words.as_bytes()[..len]);
        after + u64::from(u32::MAX) * (MAX_OPTIONS as u64 / 4) - before
    }
}

/// The one's complement sum of bytes (RFC 1071).
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u64 = 0;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |&byte| u64::from(byte));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Any whole packet with right checksums.
pub fn packet() -> impl Strategy<Value = Packet> {
    let parts = (
        any::<bool>(),
        vec(any::<u8>(), 40),
        2..=255_u8,
        vec(any::<u8>(), 20),
        options(),
        vec(any::<u8>(), 0..200),
    );
    parts.prop_map(|(is_v6, mut ip, ttl, mut tcp, options, payload)| {
        tcp[12] = tcp[12] & 0xf | ((5 + options.len() as u8 / 4) << 4);
        tcp.extend(options);
        tcp.extend(payload);
        if is_v6 {
            ip[6..8].copy_from_slice(&[6, ttl]);
        } else {
            ip.truncate(20);
            ip[8..10].copy_from_slice(&[ttl, 6]);
        }
        let mut packet = Packet { ip, tcp };
        packet.seal();
        packet
    })
}

/// Options, mostly such as there are; a multiple of four bytes.
pub fn options() -> impl Strategy<Value = Vec<u8>> {
    let one = prop_oneof![
        Just(vec![1]),
        Just(vec![0]),
        vec(any::<u8>(), 8).prop_map(|bytes| [vec![8, 10], bytes].concat()),
        (1..4_usize)
            .prop_flat_map(|blocks| vec(any::<u8>(), blocks * 8))
            .prop_map(|bytes| [vec![5, bytes.len() as u8 + 2], bytes].concat()),
        (any::<u8>(), vec(any::<u8>(), 0..6)).prop_map(|(kind, bytes)| [
            vec![kind, bytes.len() as u8 + 2],
            bytes
        ]
        .concat()),
        vec(any::<u8>(), 1..8),
    ];
    vec(one, 0..8).prop_map(|all| {
        let mut bytes = all.concat();
        bytes.resize(bytes.len().next_multiple_of(4), 1);
        bytes.truncate(MAX_OPTIONS);
        bytes
    })
}

/// Options as a SYN has them, in any order, up to the last byte.
pub fn of_a_syn() -> impl Strategy<Value = Vec<u8>> {
    let one = prop_oneof![
        Just(vec![1]),
        Just(vec![4, 2]),
        any::<[u8; 2]>().prop_map(|bytes| [vec![2, 4], bytes.to_vec()].concat()),
        any::<u8>().prop_map(|bits| vec![3, 3, bits]),
        vec(any::<u8>(), 8).prop_map(|bytes| [vec![8, 10], bytes].concat()),
        vec(any::<u8>(), 16).prop_map(|bytes| [vec![19, 18], bytes].concat()),
    ];
    vec(one, 0..24).prop_map(|all| {
        let mut bytes = all.concat();
        bytes.truncate(MAX_OPTIONS);
        bytes
    })
}

/// Any flow.
pub fn flow() -> impl Strategy<Value = Flow> {
    let parts = (
        any::<[u32; 4]>(),
        any::<[u32; 4]>(),
        any::<[u16; 2]>(),
        any::<[u32; 4]>(),
        -14..=14_i8,
        0..8_u8,
        any::<[u32; 2]>(),
    );
    parts.prop_map(
        |(src, dst, [source, destination], adds, shift, options, [end, ack])| {
            let [seq_add, ack_add, ts_add, ecr_add] = adds;
            Flow {
                src,
                dst,
                ports: ports(source, destination),
                seq_add,
                ack_add,
                ts_add,
                ecr_add,
                ifindex: 1,
                end: end.into(),
                ack,
                seen: 0,
                edge: 0,
                id: 1,
                start: 0,
                since_or_held: 0,
                mtu: 1500,
                shift,
                options,
                own: 0,
                peer: 0,
                closed: 0,
                up: 1,
            }
        },
    )
}

/// A flow that turns what `flow` has made of this packet into what it was.
pub fn undoing(flow: &Flow, packet: &Packet) -> Flow {
    let (src, dst) = addresses(packet);
    Flow {
        src,
        dst,
        ports: ports_of(packet),
        seq_add: flow.seq_add.wrapping_neg(),
        ack_add: flow.ack_add.wrapping_neg(),
        ts_add: flow.ts_add.wrapping_neg(),
        ecr_add: flow.ecr_add.wrapping_neg(),
        shift: -flow.shift,
        ..*flow
    }
}

/// The direction whose packets answer those of `flow`, for the sender of this packet.
pub fn answering(flow: &Flow, packet: &Packet) -> Flow {
    let (src, dst) = addresses(packet);
    let sent = ports_of(packet);
    Flow {
        src: dst,
        dst: src,
        ports: sent.rotate_left(16),
        seq_add: flow.ack_add.wrapping_neg(),
        ack_add: flow.seq_add.wrapping_neg(),
        ts_add: flow.ecr_add.wrapping_neg(),
        ecr_add: flow.ts_add.wrapping_neg(),
        shift: -flow.shift,
        up: 0,
        ..*flow
    }
}

fn ports_of(packet: &Packet) -> u32 {
    u32::from_ne_bytes([packet.tcp[0], packet.tcp[1], packet.tcp[2], packet.tcp[3]])
}

fn addresses(packet: &Packet) -> (Addr, Addr) {
    if packet.is_v6() {
        let ip = Ipv6::read_from_bytes(&packet.ip).expect("40 bytes");
        let [_, _, s0, s1, s2, s3, d0, d1, d2, d3] = ip;
        ([s0, s1, s2, s3], [d0, d1, d2, d3])
    } else {
        let ip = Ipv4::read_from_bytes(&packet.ip).expect("20 bytes");
        (v4(ip[3]), v4(ip[4]))
    }
}
