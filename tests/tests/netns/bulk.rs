//! A gibibyte each way, singly and at once.

use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use rstest::rstest;
use sni_router_tests::bulk::{Pattern, Sum, receive, send};
use sni_router_tests::daemon::Datapath;
use sni_router_tests::raw::End;
use sni_router_tests::rig::{Rig, alone};

const GIB: u64 = 1 << 30;

/// Far more than a loaded machine needs for one of the transfers.
const LIMIT: Duration = Duration::from_secs(120);

/// More than half of the sequence numbers there are: farther than any comparison of two of them
/// reaches.
const FAR: u64 = 5 * GIB / 2;

/// Sends bytes that end with FIN; gives the sums of what was sent and what arrived.
pub(super) fn transfer(from: &TcpStream, to: &TcpStream, seed: u64, bytes: u64) -> (Sum, Sum) {
    thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let sum = send(from, Pattern::new(seed), bytes).expect("send");
            from.shutdown(Shutdown::Write).expect("shutdown");
            sum
        });
        let (received, end) = receive(to, LIMIT);
        assert_eq!(end, End::Fin);
        (sender.join().expect("the sender"), received)
    })
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn gibibyte_up_then_down_arrives_intact(#[case] datapath: Datapath) {
    let _alone = alone();
    let bytes = if datapath == Datapath::Tc { FAR } else { GIB };
    let rig = Rig::start(datapath, &[]);
    let pair = rig.open();
    let (sent, received) = transfer(&pair.client, &pair.server, 1, bytes);
    assert_eq!(sent, received, "up");
    let (sent, received) = transfer(&pair.server, &pair.client, 2, bytes);
    assert_eq!(sent, received, "down");

    let access = rig.access(pair.address);
    assert_eq!(access.reason, "done", "{access:?}");
    assert_eq!(access.bytes_up, pair.up + bytes, "{access:?}");
    assert_eq!(access.bytes_down, pair.down + bytes, "{access:?}");
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn gibibyte_both_ways_at_once_arrives_intact(#[case] datapath: Datapath) {
    let _alone = alone();
    let rig = Rig::start(datapath, &[]);
    let pair = rig.open();
    let (up, down) = thread::scope(|scope| {
        let up = scope.spawn(|| transfer(&pair.client, &pair.server, 3, GIB));
        let down = transfer(&pair.server, &pair.client, 4, GIB);
        (up.join().expect("the way up"), down)
    });
    assert_eq!(up.0, up.1, "up");
    assert_eq!(down.0, down.1, "down");

    let access = rig.access(pair.address);
    assert_eq!(access.reason, "done", "{access:?}");
    assert_eq!(access.bytes_up, pair.up + GIB, "{access:?}");
    assert_eq!(access.bytes_down, pair.down + GIB, "{access:?}");
}
