//! Both ends with something between them that passes bytes on, or not quite.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

use clap::Parser;

use super::*;
use crate::serve::Server;

#[test]
fn every_load_is_without_errors_when_bytes_are_passed_on() {
    let relay = relay(None);
    for kind in KINDS {
        let report = run(relay, kind);
        assert_eq!(report["errors"], 0, "{kind:?}: {report}");
        let work = report["bytes"].as_u64().max(report["count"].as_u64());
        assert!(work > Some(0), "{kind:?}: {report}");
    }
}

#[test]
fn every_load_tells_when_a_byte_to_the_client_was_changed() {
    for at in [0, 1000] {
        let relay = relay(Some((Way::Down, at)));
        for kind in KINDS.into_iter().filter(|kind| kind[0] != "up") {
            let report = run(relay, kind);
            assert!(report["corrupt"].as_u64() > Some(0), "{kind:?}: {report}");
        }
    }
}

#[test]
fn every_load_tells_when_a_byte_to_the_endpoint_was_changed() {
    // One in the hello, one behind it where more than the hello is sent.
    for (at, kinds) in [(30, &KINDS[..]), (1500, &KINDS[3..])] {
        let relay = relay(Some((Way::Up, at)));
        for kind in kinds {
            let report = run(relay, kind);
            assert!(report["errors"].as_u64() > Some(0), "{kind:?}: {report}");
        }
    }
}

/// Those that send more than their hello come last.
const KINDS: [&[&str]; 5] = [
    &["down", "--streams", "4"],
    &["connect", "--streams", "8"],
    &["connect", "--streams", "8", "--close", "rst"],
    &["exchange", "--streams", "4", "--size", "100000"],
    &["up", "--streams", "4"],
];

/// Loads an address for a moment.
fn run(to: SocketAddr, kind: &[&str]) -> Value {
    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }
    let to = to.to_string();
    let fixed = ["load", "--to", &to, "--warm-up", "20", "--measure", "150"];
    let words = fixed.iter().chain(kind);
    measure(&Cli::try_parse_from(words).unwrap().args).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// Starts an endpoint and what is between it and the client: it changes one byte of every
/// connection, or none.
fn relay(fault: Option<(Way, usize)>) -> SocketAddr {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let mut server = Server::new().unwrap();
        tell.send(server.listen(ANY.parse().unwrap()).unwrap())
            .unwrap();
        server.run()
    });
    let endpoint = told.recv().unwrap();
    let listener = TcpListener::bind(ANY).unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(endpoint) else {
                continue;
            };
            let fault_of = |way| fault.filter(|(of, _)| *of == way).map(|(_, at)| at);
            let (up, down) = (fault_of(Way::Up), fault_of(Way::Down));
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || pass_on(from, to, up));
            thread::spawn(move || pass_on(server, client, down));
        }
    });
    at
}

/// Passes bytes and the end on; the byte at `fault` is changed.
fn pass_on(mut from: TcpStream, mut to: TcpStream, fault: Option<usize>) {
    let mut buffer = vec![0; 64 * 1024];
    let mut passed = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(len) if len > 0 => {
                let here = fault.and_then(|at| at.checked_sub(passed));
                if let Some(at) = here.filter(|at| *at < len) {
                    buffer[at] ^= 1;
                }
                passed += len;
                if to.write_all(&buffer[..len]).is_err() {
                    let _ = from.shutdown(Shutdown::Both);
                    return;
                }
            }
            Ok(_) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Err(_) => {
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

const ANY: &str = "127.0.0.1:0";
