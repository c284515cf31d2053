//! Many short connections through few ports, on either side: whatever a connection leaves behind is
//! in the way of the next one from that port.

use std::env;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sni_router_tests::bpffs::Bpffs;
use sni_router_tests::bulk::Random;
use sni_router_tests::daemon::Datapath;
use sni_router_tests::raw::{End, hello, read_exactly, read_to_end, write};
use sni_router_tests::rig::{BACKEND_PORT, HOST, Lab, alone};
use sni_router_tests::server::Server;
use sni_router_tests::site::Site;
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until};

use crate::restart::flow_table;

/// Connections at once.
const CLIENTS: usize = 8;

/// Ports of the client, and of the router towards an endpoint. The kernel chooses among every second
/// port of a range first.
const PORTS: usize = 500;

/// A port towards an endpoint rests for a second, so there are some of these.
const ENDPOINTS: u16 = 4;

/// As long as each client takes for a connection, at least: on a fast machine all ports would rest. So there are
/// 1,333 connections a second, for which [`PORTS`] towards [`ENDPOINTS`] are enough.
const TURN: Duration = Duration::from_millis(6);

/// Bytes of a request: the number of the connection.
const REQUEST: usize = 8;

/// How many; `SNI_ROUTER_CONNECTIONS` asks for more, and that the table be empty in the end.
fn connections() -> (u64, bool) {
    let asked = env::var("SNI_ROUTER_CONNECTIONS").ok();
    let asked = asked.map(|asked| asked.parse().expect("a number of connections"));
    (asked.unwrap_or(6000), asked.is_some())
}

#[test]
fn connections_through_few_ports_do_not_fail_and_leave_nothing() {
    let _alone = alone();
    let (count, is_long) = connections();
    let lab = Lab::new(1);
    let endpoints = (0..ENDPOINTS).map(|n| lab.net.endpoint(0, Family::V4, BACKEND_PORT + n));
    let endpoints: Vec<_> = endpoints.collect();
    Site::new()
        .route(HOST, "one")
        .service("one", endpoints.clone())
        .write_to(&lab.manifests());
    let range = "ipv4/ip_local_port_range";
    lab.net.client.sysctl(range, "20000 20499");
    let bpffs = Bpffs::mount();
    let args = ["--tc-ports", "10000-10499", "--pin-dir", bpffs.dir()];
    let router = lab.start(Datapath::Tc, &args);

    let hello = hello(HOST);
    let length = hello.len();
    let servers: Vec<_> = endpoints
        .iter()
        .map(|at| Server::spawn(lab.net.backends[0].listen(*at), move |s| serve(s, length)))
        .collect();
    let next = AtomicU64::new(0);
    let client = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            let begun = Instant::now();
            let client = lab.connect(Family::V4);
            write(&client, &[&hello[..], &number.to_be_bytes()].concat());
            let (got, end) = read_to_end(&client, SOON);
            assert_eq!(end, End::Fin, "{number}");
            assert!(got == answer(number), "{number}: {} bytes", got.len());
            thread::sleep(TURN.saturating_sub(begun.elapsed()));
        }
    };
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(client);
        }
    });
    servers.iter().for_each(Server::check);

    let last = usize::try_from(count).expect("it fits") - 1;
    router.log().wait_for_nth_access(last, SOON);
    let records = router.log().access();
    assert_eq!(records.len(), last + 1);
    for access in records {
        let what = (&*access.datapath, &*access.reason);
        assert_eq!(what, ("tc", "done"), "{access:?}");
        assert_eq!(access.bytes_up, (length + REQUEST) as u64, "{access:?}");
    }
    let entries = || flow_table(&bpffs);
    let live = entries().values().filter(|flow| flow.closed == 0).count();
    assert_eq!(live, 0, "flows live on");
    // Two a port, of those that linger.
    let most = 2 * PORTS * usize::from(ENDPOINTS);
    assert!(entries().len() <= most, "{} entries", entries().len());
    if is_long {
        until("the table is empty", LINGER * 2, || entries().is_empty());
    }
}

/// As long as an ended flow lingers.
const LINGER: Duration = Duration::from_secs(60);

/// What the endpoint says, which ends first: so it remembers the connection, and the client does not.
fn serve(stream: TcpStream, hello: usize) {
    read_exactly(&stream, hello, SOON);
    let request = read_exactly(&stream, REQUEST, SOON);
    let number = u64::from_be_bytes(request.try_into().expect("eight bytes"));
    write(&stream, &answer(number));
    stream.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(&stream, SOON), (Vec::new(), End::Fin));
}

/// Other bytes, and another number of them, for each connection.
fn answer(number: u64) -> Vec<u8> {
    let mut random = Random::new(number);
    let words = 1 + random.below(400);
    (0..words)
        .flat_map(|_| random.below(u64::MAX).to_le_bytes())
        .collect()
}
