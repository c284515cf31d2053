//! The attacks: packets that their receiver must not believe.

use std::net::SocketAddr;

use sni_router_tests::packet::{ACK, FIN, RST, SYN, Segment};

use super::Side;

/// What somebody sends who has the addresses of a connection.
pub(super) struct Attack {
    pub(super) name: &'static str,
    /// Who gets it.
    pub(super) answer: Answer,
    /// The packets, forged as from the first side; the second one is the other.
    pub(super) packets: fn(&[Side; 2]) -> Vec<Vec<u8>>,
}

/// Whose business a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is sent on, and whoever gets it knows what to do with it.
    Receiver,
    /// It does not come through.
    Router,
    /// It belongs to no connection, and may be answered with RST.
    Nobody,
}

/// Each with a name that a failure is found by.
pub(super) const ATTACKS: &[Attack] = &[
    to_receiver("RST out of the window", |[side, _]| {
        OUTSIDE.map(|by| forge(side, RST, by, 0, 0)).concat()
    }),
    to_receiver("RST with ACK out of the window", |[side, _]| {
        OUTSIDE.map(|by| forge(side, RST | ACK, by, 0, 0)).concat()
    }),
    to_receiver("RST in the window", |[side, _]| {
        INSIDE.map(|by| forge(side, RST, by, 0, 0)).concat()
    }),
    to_receiver("RST with data out of the window", |[side, _]| {
        OUTSIDE.map(|by| forge(side, RST | ACK, by, 0, 9)).concat()
    }),
    to_receiver("SYN", |[side, _]| {
        ANYWHERE.map(|by| forge(side, SYN, by, 0, 0)).concat()
    }),
    to_router("SYN with data", |[side, _]| {
        ANYWHERE.map(|by| forge(side, SYN, by, 0, 100)).concat()
    }),
    to_receiver("SYN-ACK", |[side, _]| {
        ANYWHERE.map(|by| forge(side, SYN | ACK, by, 0, 0)).concat()
    }),
    to_receiver("SYN with FIN", |[side, _]| {
        OUTSIDE.map(|by| forge(side, SYN | FIN, by, 0, 0)).concat()
    }),
    to_receiver("ACK of what was not sent", |[side, _]| {
        OUTSIDE.map(|by| forge(side, ACK, 0, by, 0)).concat()
    }),
    to_receiver("ACK out of the window", |[side, _]| {
        OUTSIDE.map(|by| forge(side, ACK, by, by, 0)).concat()
    }),
    to_receiver("data out of the window", |[side, _]| {
        OUTSIDE.map(|by| forge(side, ACK, by, 0, 1000)).concat()
    }),
    to_receiver(
        "data out of the window, and a RST at its end",
        |[side, _]| {
            let both = |by: u32| {
                let data = forge(side, ACK, by, 0, 1000);
                [data, forge(side, RST, by.wrapping_add(1000), 0, 0)].concat()
            };
            OUTSIDE.map(both).concat()
        },
    ),
    to_receiver("ACK out of the window, and a RST at it", |[side, other]| {
        let both = |by: u32| {
            let ack = forge(side, ACK, by, by, 0);
            [ack, forge(other, RST, by, 0, 0)].concat()
        };
        OUTSIDE.map(both).concat()
    }),
    to_receiver("FIN out of the window", |[side, _]| {
        OUTSIDE.map(|by| forge(side, FIN | ACK, by, 0, 0)).concat()
    }),
    to_receiver("FIN with data out of the window", |[side, _]| {
        OUTSIDE.map(|by| forge(side, FIN | ACK, by, 0, 99)).concat()
    }),
    to_receiver("FIN of both sides out of the window", |sides| {
        let both = |by: u32| {
            let fins = [
                forge(&sides[0], FIN | ACK, by, 0, 0),
                forge(&sides[1], FIN | ACK, by, 0, 0),
            ];
            // And what would acknowledge them.
            let acks = [
                forge(&sides[0], ACK, 0, 0, 0),
                forge(&sides[1], ACK, 0, 0, 0),
            ];
            [fins.concat(), acks.concat()].concat()
        };
        OUTSIDE.map(both).concat()
    }),
    to_receiver("RST with a bad checksum", |[side, _]| {
        vec![damage(side, RST | ACK, 0, 16)]
    }),
    to_receiver("FIN with a bad checksum", |[side, _]| {
        vec![damage(side, FIN | ACK, 0, 16)]
    }),
    to_receiver("data with a bad checksum", |[side, _]| {
        vec![damage(side, ACK, 700, 30), damage(side, ACK, 1, 16)]
    }),
    to_router("RST that has come too far", |[side, _]| {
        vec![expired(side, RST | ACK, 0)]
    }),
    to_router("FIN that has come too far", |[side, _]| {
        vec![expired(side, FIN | ACK, 0)]
    }),
    to_router("data that has come too far", |[side, _]| {
        vec![expired(side, ACK, 1000)]
    }),
    to_router("RST that is cut off", |[side, _]| {
        let whole = forge(side, RST | ACK, 0, 0, 0).concat();
        let least = whole.len() - 20;
        (0..20).map(|more| whole[..least + more].to_vec()).collect()
    }),
    to_router("FIN behind data that are cut off", |[side, _]| {
        let whole = forge(side, FIN | ACK, 0, 0, 500).concat();
        [1, 250, 500]
            .map(|less| whole[..whole.len() - less].to_vec())
            .into()
    }),
    to_router("RST whose header is longer than it", |[side, _]| {
        vec![longer_header(side)]
    }),
    to_nobody("RST from another address", |[side, _]| {
        half(side, |packet| packet.src.set_ip(neighbour(packet.src)))
    }),
    to_nobody("RST from another port", |[side, _]| {
        half(side, |packet| packet.src.set_port(packet.src.port() ^ 1))
    }),
    to_nobody("RST to another address", |[side, _]| {
        half(side, |packet| packet.dst.set_ip(neighbour(packet.dst)))
    }),
    to_nobody("RST to another port", |[side, _]| {
        half(side, |packet| packet.dst.set_port(packet.dst.port() ^ 1))
    }),
];

/// Farther than any window of these connections is open: ahead and behind.
const OUTSIDE: [u32; 7] = [
    1 << 18,
    1 << 20,
    1 << 24,
    1 << 31,
    (1_u32 << 18).wrapping_neg(),
    (1_u32 << 20).wrapping_neg(),
    (1_u32 << 24).wrapping_neg(),
];

/// In the window, but not where the next byte is expected.
const INSIDE: [u32; 3] = [1, 500, 20_000];

/// Outside, inside, and exactly there.
const ANYWHERE: [u32; 6] = [0, 1, 20_000, 1 << 20, 1 << 30, (1_u32 << 20).wrapping_neg()];

type Packets = fn(&[Side; 2]) -> Vec<Vec<u8>>;

const fn to_receiver(name: &'static str, packets: Packets) -> Attack {
    let answer = Answer::Receiver;
    Attack {
        name,
        answer,
        packets,
    }
}

const fn to_router(name: &'static str, packets: Packets) -> Attack {
    let answer = Answer::Router;
    Attack {
        name,
        answer,
        packets,
    }
}

const fn to_nobody(name: &'static str, packets: Packets) -> Attack {
    let answer = Answer::Nobody;
    Attack {
        name,
        answer,
        packets,
    }
}

/// A packet that is this far from where one of that side would be.
fn forge(side: &Side, flags: u8, seq: u32, ack: u32, payload: usize) -> Vec<Vec<u8>> {
    let packet = forged(side, flags, payload);
    let packet = Segment {
        seq: packet.seq.wrapping_add(seq),
        ack: packet.ack.wrapping_add(ack),
        ..packet
    };
    vec![packet.ip()]
}

/// A packet that would be right.
fn forged(side: &Side, flags: u8, payload: usize) -> Segment {
    Segment {
        flags,
        payload: vec![0xee; payload],
        ..side.segment()
    }
}

/// A packet that would be right, but for a bit of the TCP header or of what follows it.
fn damage(side: &Side, flags: u8, payload: usize, at: usize) -> Vec<u8> {
    let mut packet = forged(side, flags, payload).ip();
    let transport = packet.len() - payload - 20;
    packet[transport + at] ^= 0x40;
    packet
}

/// The same, but for where it has been.
fn expired(side: &Side, flags: u8, payload: usize) -> Vec<u8> {
    Segment {
        ttl: 1,
        ..forged(side, flags, payload)
    }
    .ip()
}

fn longer_header(side: &Side) -> Vec<u8> {
    let mut packet = forged(side, RST | ACK, 0).ip();
    let transport = packet.len() - 20;
    packet[transport + 12] = 15 << 4;
    packet
}

/// A RST that would be right, but for one of the addresses.
fn half(side: &Side, change: fn(&mut Segment)) -> Vec<Vec<u8>> {
    let mut packet = forged(side, RST | ACK, 0);
    change(&mut packet);
    vec![packet.ip()]
}

/// An address of the same network that nobody has.
fn neighbour(at: SocketAddr) -> std::net::IpAddr {
    match at.ip() {
        std::net::IpAddr::V4(ip) => std::net::Ipv4Addr::from_bits(ip.to_bits() ^ 0x40).into(),
        std::net::IpAddr::V6(ip) => std::net::Ipv6Addr::from_bits(ip.to_bits() ^ 0x40).into(),
    }
}
