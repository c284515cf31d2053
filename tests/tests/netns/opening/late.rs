//! Packets that come in the moment in which their connection becomes a flow.

use std::time::Instant;

use sni_router_tests::bulk::Pattern;
use sni_router_tests::position::Position;

use super::*;

/// The program looks for a flow first, and then for the handshake. Who finds neither, since the one was not there yet and
/// the other is not there any more, is not answered with the stack's RST.
#[test]
fn packets_that_come_while_a_flow_is_made_are_never_the_stacks() {
    let lab = Lab::new(1);
    // What is large takes the program longer.
    for (namespace, link) in [
        (&lab.net.client, "eth0"),
        (&lab.net.router, "client"),
        (&lab.net.router, "backend0"),
        (&lab.net.backends[0], "eth0"),
    ] {
        namespace.batch(&format!("link set {link} mtu 9000\n"));
    }
    let endpoint = lab.listen(0);
    Rig::site(&lab).write_to(&lab.manifests());
    let router = lab.start(Datapath::Tc, &[]);
    let rig = Rig::of(router, endpoint, lab, Datapath::Tc);
    let raw = rig.lab.net.client.run(|| {
        Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).expect("a raw socket")
    });
    let vip = SocketAddr::new(Family::V4.vip(), PORT);
    let said = [hello(HOST), Pattern::new(1).bytes(10_000)].concat();
    let resets = || counter(&rig.lab.net.router, "OutRsts").expect("of TCP");
    warm(&rig, Family::V4);
    let (before, begun) = ((resets(), taken(&rig)), Instant::now());
    let taken = || taken(&rig) - before.1;
    while taken() < ENOUGH && begun.elapsed() < SOON * 6 {
        let client = rig.lab.connect(Family::V4);
        let Position { seq, ack } = Position::of(&client);
        let again = Segment {
            seq,
            ack,
            payload: said[..8900].to_vec(),
            ..Segment::new(client.local_addr().expect("a socket"), vip)
        };
        let again = again.ip();
        write(&client, &said);
        for _ in 0..TIMES {
            raw.send_to(&again, &vip.into()).expect("send");
        }
        let server = rig.accept();
        assert_eq!(read_exactly(&server, said.len(), SOON), said);
        write(&server, b"!");
        assert_eq!(read_exactly(&client, 1, SOON), b"!");
    }
    assert_eq!(resets(), before.0, "the stack has answered");
    let taken = taken();
    assert!(taken > ENOUGH / 20.0, "{taken} were taken");
}

/// Packets that are taken, about two a connection. A router with optimizations met it within some hundred connections.
const ENOUGH: f64 = 2000.0;
/// Until the flow is there.
const TIMES: u32 = 40;
