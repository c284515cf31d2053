//! Short connections of every kind at once, so that slots, sockets and pipes are reused while their
//! last users are still ending.

use std::net::{Shutdown, TcpStream};
use std::thread;

use rstest::rstest;
use sni_router_tests::bulk::{Pattern, Random, receive, sum};
use sni_router_tests::daemon::Datapath;
use sni_router_tests::raw::{End, hello, read_exactly, read_to_end, reset, write};
use sni_router_tests::rig::{HOST, Rig, alone};
use sni_router_tests::server::Server;
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until};

const CLIENTS: u64 = 8;

/// Connections of each client.
const EACH: u64 = 300;

/// What happens on a connection; the first byte behind the hello tells the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The server sends back what it gets, once the client has ended.
    Echo,
    /// The server sends what the seed says and ends; the client ends after that.
    Download,
    /// The server resets after the first bytes.
    ServerResets,
    /// The client resets after the first bytes.
    ClientResets,
}

const KINDS: [Kind; 4] = [
    Kind::Echo,
    Kind::Download,
    Kind::ServerResets,
    Kind::ClientResets,
];

/// Behind the hello: the kind, the seed of the bytes, and how many there are.
struct Order {
    kind: Kind,
    seed: u64,
    len: u64,
}

impl Order {
    const LEN: usize = 1 + 8 + 8;

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind as u8];
        bytes.extend_from_slice(&self.seed.to_be_bytes());
        bytes.extend_from_slice(&self.len.to_be_bytes());
        bytes
    }

    fn read(from: &TcpStream) -> Self {
        let bytes = read_exactly(from, Self::LEN, SOON);
        let number = |at: usize| {
            let bytes = bytes[at..at + 8].try_into().expect("eight bytes");
            u64::from_be_bytes(bytes)
        };
        Self {
            kind: KINDS[usize::from(bytes[0])],
            seed: number(1),
            len: number(9),
        }
    }

    fn payload(&self) -> Vec<u8> {
        let len = usize::try_from(self.len).expect("it fits");
        Pattern::new(self.seed).bytes(len)
    }
}

/// The server's part.
fn serve(stream: TcpStream, hello: usize) {
    read_exactly(&stream, hello, SOON);
    let order = Order::read(&stream);
    match order.kind {
        Kind::Echo => {
            let (bytes, end) = read_to_end(&stream, SOON);
            assert_eq!(end, End::Fin);
            write(&stream, &bytes);
        }
        Kind::Download => {
            write(&stream, &order.payload());
            stream.shutdown(Shutdown::Write).expect("shutdown");
            assert_eq!(read_to_end(&stream, SOON), (Vec::new(), End::Fin));
        }
        Kind::ServerResets => reset(stream),
        Kind::ClientResets => {
            write(&stream, b"!");
            assert_eq!(read_to_end(&stream, SOON).1, End::Reset);
        }
    }
}

/// The client's part.
fn ask(rig: &Rig, hello: &[u8], order: &Order) {
    let client = rig.lab.connect(Family::V4);
    write(&client, &[hello, &order.bytes()].concat());
    match order.kind {
        Kind::Echo => {
            let payload = order.payload();
            write(&client, &payload);
            client.shutdown(Shutdown::Write).expect("shutdown");
            let echoed = receive(&client, SOON);
            assert_eq!(echoed, (sum(&payload), End::Fin), "{}", order.seed);
        }
        Kind::Download => {
            let expected = (sum(&order.payload()), End::Fin);
            assert_eq!(receive(&client, SOON), expected, "{}", order.seed);
        }
        Kind::ServerResets => {
            let ended = read_to_end(&client, SOON);
            assert_eq!(ended, (Vec::new(), End::Reset), "{}", order.seed);
        }
        Kind::ClientResets => {
            assert_eq!(read_exactly(&client, 1, SOON), b"!");
            reset(client);
        }
    }
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn short_connections_of_every_kind_do_not_disturb_each_other(#[case] datapath: Datapath) {
    let _alone = alone();
    let rig = Rig::start(datapath, &[]);
    let hello = hello(HOST);
    let listener = rig.endpoint.try_clone().expect("clone");
    let length = hello.len();
    let server = Server::spawn(listener, move |stream| serve(stream, length));
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (rig, hello) = (&rig, &hello);
            scope.spawn(move || {
                let mut random = Random::new(client);
                for n in 0..EACH {
                    let order = Order {
                        kind: KINDS[random.below(4) as usize],
                        seed: client * EACH + n,
                        len: random.below(100_000),
                    };
                    ask(rig, hello, &order);
                }
            });
        }
    });

    server.check();

    let made = (CLIENTS * EACH) as usize;
    until("every connection is recorded", SOON, || {
        rig.router.log().access().len() == made
    });
    let expected = ["done", "client_reset", "endpoint_reset"];
    let bad: Vec<_> = rig
        .router
        .log()
        .access()
        .into_iter()
        .filter(|access| !expected.contains(&access.reason.as_str()))
        .collect();
    assert!(bad.is_empty(), "{} of them, first {:?}", bad.len(), bad[0]);
    until("no connection is active", SOON, || {
        rig.router.metric("sni_router_connections_active", &[]) == 0.0
    });
}
