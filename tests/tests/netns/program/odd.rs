//! Packets of a flow that are not plain: the stack would answer them with a reset.

use rstest::rstest;
use sni_router_common::counter::Counter;
use sni_router_tests::packet::{ip, seal};
use sni_router_tests::topology::Family;

use super::*;

/// IP options: three times "no operation", and the end.
fn with_options(packet: &[u8]) -> Vec<u8> {
    let mut header = [&packet[..20], &[1, 1, 1, 0]].concat();
    header[0] = 0x46;
    let total = packet.len() as u16 + 4;
    header[2..4].copy_from_slice(&total.to_be_bytes());
    seal(&mut header);
    [&header, &packet[20..]].concat()
}

/// `field` is flags and offset.
fn fragment_v4(packet: &[u8], field: u16) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[6..8].copy_from_slice(&field.to_be_bytes());
    seal(&mut packet[..20]);
    packet
}

/// Extension headers, one after another: what each is, and its bytes but for the first.
fn extended(sides: Sides, extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let tcp = sides.client_sends().tcp();
    let nexts = extensions.iter().skip(1).map(|&(kind, _)| kind).chain([6]);
    let mut payload = Vec::new();
    for ((_, bytes), next) in extensions.iter().zip(nexts) {
        payload.push(next);
        payload.extend_from_slice(bytes);
    }
    payload.extend(tcp);
    ip(
        sides.client.ip(),
        sides.vip.ip(),
        64,
        extensions[0].0,
        &payload,
    )
}

#[test]
fn ipv4_options_and_first_fragments_of_a_flow_are_dropped() {
    let mut program = Program::load(Family::V4);
    let sides = program.sides;
    let packet = sides.client_sends().ip();
    let odd = [with_options(&packet), fragment_v4(&packet, 0x2000)];
    for odd in &odd {
        program.run(odd).assert_dropped(Counter::TcOdd);
    }
    // Of which flow it is, nobody can tell.
    let later = fragment_v4(&packet, 0x2003);
    program.run(&later).assert_passed(&later, None);
    program.remove();
    for odd in &odd {
        program.run(odd).assert_passed(odd, None);
    }
}

#[test]
fn ipv6_extension_headers_of_a_flow_are_dropped() {
    let mut program = Program::load(Family::V6);
    let sides = program.sides;
    let options: (u8, &[u8]) = (0, &[0, 1, 4, 0, 0, 0, 0]);
    let destination: (u8, &[u8]) = (60, &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let routing: (u8, &[u8]) = (43, &[0, 4, 0, 0, 0, 0, 0]);
    let fragment: (u8, &[u8]) = (44, &[0, 0, 1, 0, 0, 0, 9]);
    let signed: (u8, &[u8]) = (51, &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let chains: [&[(u8, &[u8])]; 6] = [
        &[options],
        &[destination],
        &[routing],
        &[fragment],
        &[signed],
        &[options, destination, routing, fragment],
    ];
    for chain in chains {
        let odd = extended(sides, chain);
        program.run(&odd).assert_dropped(Counter::TcOdd);
    }
    let later = extended(sides, &[(44, &[0, 0, 9, 0, 0, 0, 9])]);
    program.run(&later).assert_passed(&later, None);
    program.remove();
    for chain in chains {
        let odd = extended(sides, chain);
        program.run(&odd).assert_passed(&odd, None);
    }
}

#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
fn packets_of_nobodys_ports_are_passed(#[case] family: Family) {
    let program = Program::load(family);
    let sides = program.sides;
    let mut other = sides.client_sends();
    other.dst.set_port(444);
    program.run(&other.ip()).assert_passed(&other.ip(), None);
    // One of our ports, and nobody's flow.
    let mut half = sides.client_sends();
    half.src.set_port(41_001);
    program.run(&half.ip()).assert_passed(&half.ip(), None);
    let udp = ip(sides.client.ip(), sides.vip.ip(), 64, 17, &half.tcp());
    program.run(&udp).assert_passed(&udp, None);
}

/// An IPv6 packet with IPv4 addresses in it is not the flow's that has the same ones. The stack would drop it.
#[test]
fn mapped_addresses_on_the_wire_reach_nobody() {
    let program = Program::load(Family::V4);
    let sides = program.sides;
    let mapped = |addr: SocketAddr| match addr.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), addr.port()),
        IpAddr::V6(_) => unreachable!("the sides are of IPv4"),
    };
    let mut sent = sides.client_sends();
    (sent.src, sent.dst) = (mapped(sent.src), mapped(sent.dst));
    let packet = sent.ip();
    program.run(&packet).assert_dropped(Counter::TcOdd);
    assert_eq!(program.flow(&sides.up()), up(sides));
}
