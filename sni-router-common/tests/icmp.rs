//! Properties of ICMP errors: those that are translated, and those that are made.

mod support;

use proptest::prelude::*;
use sni_router_common::flow::{Flow, FlowKey};
use sni_router_common::icmp::{Cause, Error, Icmp, Quoted, Rest, has_budget, is_under_way};
use sni_router_common::rewrite::{Ipv4, Ipv6};
use zerocopy::{FromBytes, IntoBytes};

use crate::support::{Packet, answering, flow, packet, sum};

/// An ICMP error about a packet, as bytes: its IP header, the ICMP header, and what is quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    ip: Vec<u8>,
    icmp: Vec<u8>,
    quoted: Vec<u8>,
}

impl Message {
    fn about(packet: &Packet, header: &Packet, kind: u8, len: usize) -> Self {
        let mut message = Self {
            ip: header.ip.clone(),
            icmp: vec![kind, 4, 0, 0, 0, 0, 5, 0x14],
            quoted: packet.bytes()[..(packet.ip.len() + len).min(packet.bytes().len())].to_vec(),
        };
        message.ip[if header.is_v6() { 6 } else { 9 }] = if header.is_v6() { 58 } else { 1 };
        if !header.is_v6() {
            message.ip[10..12].fill(0);
            let value = !sum(&message.ip);
            message.ip[10..12].copy_from_slice(&value.to_be_bytes());
        }
        let value = !sum(&message.covered());
        message.icmp[2..4].copy_from_slice(&value.to_be_bytes());
        message
    }

    fn is_intact(&self) -> bool {
        let header = self.ip.len() == 40 || sum(&self.ip) == 0xffff;
        header && sum(&self.covered()) == 0xffff
    }

    fn covered(&self) -> Vec<u8> {
        let message = [self.icmp.clone(), self.quoted.clone()].concat();
        if self.ip.len() == 20 {
            return message;
        }
        let len = message.len() as u32;
        let rest = [len.to_be_bytes(), [0, 0, 0, 58]].concat();
        [self.ip[8..].to_vec(), rest, message].concat()
    }

    /// Translates it where it lies, as the kernel program does. `None` if it is not an error about
    /// TCP, else the key that it asked for.
    fn translate(&mut self, back: &Flow) -> Option<FlowKey> {
        let header = self.ip.len();
        let start = header + 8;
        let word = |bytes: &[u8]| <[u32; 2]>::read_from_bytes(bytes).expect("8 bytes");
        let icmp: Icmp = word(&self.icmp);
        let tcp = word(&self.quoted[header..start]);
        let mut rest = self
            .quoted
            .get(start..start + 12)
            .map(|bytes| Rest::read_from_bytes(bytes).expect("12 bytes"));
        let (ip, icmp, quoted, tcp, key) = if header == 40 {
            let ip = |bytes: &[u8]| Ipv6::read_from_bytes(bytes).expect("40 bytes");
            let mut error = Error {
                ip: ip(&self.ip),
                icmp,
                quoted: ip(&self.quoted[..40]),
                start: tcp,
            };
            if !error.is_about_tcp() {
                return None;
            }
            let key = error.answers();
            error.translate(rest.as_mut(), back);
            (
                error.ip.as_bytes().to_vec(),
                error.icmp,
                error.quoted.as_bytes().to_vec(),
                error.start,
                key,
            )
        } else {
            let ip = |bytes: &[u8]| Ipv4::read_from_bytes(bytes).expect("20 bytes");
            let mut error = Error {
                ip: ip(&self.ip),
                icmp,
                quoted: ip(&self.quoted[..20]),
                start: tcp,
            };
            if !error.is_about_tcp() {
                return None;
            }
            let key = error.answers();
            error.translate(rest.as_mut(), back);
            (
                error.ip.as_bytes().to_vec(),
                error.icmp,
                error.quoted.as_bytes().to_vec(),
                error.start,
                key,
            )
        };
        self.ip = ip;
        self.icmp = icmp.as_bytes().to_vec();
        self.quoted[..header].copy_from_slice(&quoted);
        self.quoted[header..start].copy_from_slice(tcp.as_bytes());
        if let Some(rest) = rest {
            self.quoted[start..start + 12].copy_from_slice(rest.as_bytes());
        }
        Some(key)
    }
}

/// A packet with plain headers, as we send them.
fn plain() -> impl Strategy<Value = Packet> {
    packet().prop_map(|mut packet| {
        if packet.is_v6() {
            packet.ip[0] = 0x60;
        } else {
            packet.ip[0] = 0x45;
            packet.ip[6..8].copy_from_slice(&[0x40, 0]);
        }
        packet.seal();
        packet
    })
}

/// Two of one family.
fn two() -> impl Strategy<Value = (Packet, Packet)> {
    (plain(), plain()).prop_filter("one family", |(a, b)| a.is_v6() == b.is_v6())
}

/// The number of an error that says "too big".
fn kind(packet: &Packet) -> u8 {
    if packet.is_v6() { 2 } else { 3 }
}

proptest! {
    #[test]
    fn translated_error_quotes_what_the_sender_has_sent(
        (sent, header) in two(),
        flow in flow(),
        len in prop_oneof![Just(8_usize), 8..200_usize],
    ) {
        let flow = Flow { shift: 0, options: 0, ..flow };
        let mut rewritten = sent.clone();
        rewritten.rewrite(&flow);
        let back = answering(&flow, &sent);
        let mut message = Message::about(&rewritten, &header, kind(&sent), len);
        prop_assert!(message.is_intact());
        let key = message.translate(&back);
        if !sent.is_v6() {
            // Flows of IPv4 have v4-mapped addresses; only the last word was put into the header.
            let [_, _, _, src] = flow.src;
            let [_, _, _, dst] = flow.dst;
            let key = key.expect("an error about TCP");
            prop_assert_eq!((key.src[3], key.dst[3], key.ports), (dst, src, flow.ports.rotate_left(16)));
        } else {
            prop_assert_eq!(key, Some(FlowKey::answers(&flow)));
        }
        prop_assert!(message.is_intact());
        let ip = sent.ip.len();
        // Addresses, ports and position are the sender's; all else of the header is, too.
        let addresses = if sent.is_v6() { 8..40 } else { 12..20 };
        prop_assert_eq!(&message.quoted[addresses.clone()], &sent.ip[addresses]);
        prop_assert_eq!(&message.quoted[ip..ip + 8], &sent.tcp[..8]);
        if !sent.is_v6() {
            prop_assert_eq!(sum(&message.quoted[..20]), 0xffff);
        }
        if len >= 20 {
            prop_assert_eq!(&message.quoted[ip + 8..ip + 16], &sent.tcp[8..16]);
            prop_assert_eq!(&message.quoted[ip + 18..], &rewritten.tcp[18..len.min(sent.tcp.len())]);
        }
        if len >= sent.tcp.len() {
            let mut whole = sent.clone();
            whole.ip = message.quoted[..ip].to_vec();
            whole.tcp = message.quoted[ip..].to_vec();
            prop_assert!(whole.is_intact(), "the quoted packet's checksums");
        }
        // It comes from whom the sender talks to.
        let (from, to) = if sent.is_v6() { (8..24, 24..40) } else { (12..16, 16..20) };
        prop_assert_eq!(&message.ip[from.clone()], &sent.ip[to.clone()]);
        prop_assert_eq!(&message.ip[to], &sent.ip[from]);
    }

    #[test]
    fn broken_error_stays_broken((sent, header) in two(), flow in flow(), by in 1..0xffff_u16) {
        let mut message = Message::about(&sent, &header, kind(&sent), 28);
        let value = u16::from_be_bytes([message.icmp[2], message.icmp[3]]);
        message.icmp[2..4].copy_from_slice(&value.wrapping_add(by).to_be_bytes());
        prop_assume!(!message.is_intact());
        message.translate(&flow);
        prop_assert!(!message.is_intact());
    }

    #[test]
    fn error_of_ours_is_right_whoever_fills_in_the_quoted_checksum(sent in plain(), mtu: u16) {
        for cause in [Cause::TooBig(mtu), Cause::Expired] {
            let (ip, icmp, quoted) = made(&sent, cause);
            let (tcp, header) = (sent.ip.len(), sent.ip.len() + 20);
            prop_assert_eq!(quoted.len(), header);
            // All but the checksum is as it was.
            let mut expected = sent.bytes()[..header].to_vec();
            expected[tcp + 16..tcp + 18].copy_from_slice(&quoted[tcp + 16..tcp + 18]);
            prop_assert_eq!(&quoted, &expected);
            let message = Message { ip, icmp, quoted: quoted.clone() };
            prop_assert!(message.is_intact());
            let mut filled = quoted;
            let value = match !sum(&filled[tcp..]) {
                0 => 0xffff,
                value => value,
            };
            filled[tcp + 16..tcp + 18].copy_from_slice(&value.to_be_bytes());
            prop_assert_eq!(filled, message.quoted);
        }
    }

    #[test]
    fn only_what_may_be_under_way_is_believed(
        flow in flow(),
        end: u32,
        in_flight in 0..1_u32 << 24,
        distance in 1..1_u32 << 24,
    ) {
        let forth = Flow { end: end.into(), ..flow };
        let last = end.wrapping_add(forth.seq_add);
        let back = Flow { ack: last.wrapping_sub(in_flight), ..flow };
        for seq in [last, back.ack] {
            prop_assert!(is_under_way(seq, &back, &forth));
        }
        prop_assert!(!is_under_way(last.wrapping_add(distance), &back, &forth));
        let late = back.ack.wrapping_sub(distance).wrapping_sub(1 << 16);
        prop_assert!(!is_under_way(late, &back, &forth));
    }

    #[test]
    fn errors_are_a_thousand_a_second_at_most(
        steps in prop::collection::vec(0..3_000_000_u64, 100..2000),
    ) {
        let (mut now, mut next, mut made) = (1_u64 << 40, 0, 0);
        let start = now;
        for step in steps {
            now += step;
            made += u64::from(has_budget(&mut next, now));
            prop_assert!(made <= 51 + (now - start) / 1_000_000);
        }
        prop_assert!(made >= 50);
    }
}

/// What is made of a packet, piece by piece.
fn made(sent: &Packet, cause: Cause) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let tcp = FromBytes::read_from_bytes(&sent.tcp[..20]).expect("20 bytes");
    if sent.is_v6() {
        let ip = Ipv6::read_from_bytes(&sent.ip).expect("40 bytes");
        let mut quoted = Quoted { ip, tcp };
        let answer = quoted.answer(cause);
        let inner = [quoted.ip.as_bytes(), quoted.tcp.as_bytes()].concat();
        (
            answer.ip.as_bytes().to_vec(),
            answer.icmp.as_bytes().to_vec(),
            inner,
        )
    } else {
        let ip = Ipv4::read_from_bytes(&sent.ip).expect("20 bytes");
        let mut quoted = Quoted { ip, tcp };
        let answer = quoted.answer(cause);
        let inner = [quoted.ip.as_bytes(), quoted.tcp.as_bytes()].concat();
        (
            answer.ip.as_bytes().to_vec(),
            answer.icmp.as_bytes().to_vec(),
            inner,
        )
    }
}
