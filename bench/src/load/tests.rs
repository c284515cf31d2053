//! Both ends with something between them that passes bytes on, or not quite.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

use clap::Parser;
use sni_router_tests::netns::{Scratch, unique_name};

use super::*;
use crate::serve::Server;

#[test]
fn every_load_is_without_errors_when_bytes_are_passed_on() {
    for tls in [None, Some(certificate())] {
        let relay = relay(None, tls.as_ref());
        for kind in KINDS {
            let report = run(relay, tls.as_ref(), kind);
            assert_eq!(report["errors"], 0, "{kind:?}: {report}");
            let work = report["bytes"].as_u64().max(report["count"].as_u64());
            assert!(work > Some(0), "{kind:?}: {report}");
        }
    }
}

#[test]
fn every_load_tells_when_a_byte_to_the_client_was_changed() {
    for (tls, at) in [
        (None, 0),
        (None, 1000),
        // The type of a record, the middle of the certificate, and what comes after the handshake.
        (Some(certificate()), 0),
        (Some(certificate()), 400),
        (Some(certificate()), 1500),
    ] {
        let relay = relay(Some((Way::Down, Fault::Changed(at))), tls.as_ref());
        for kind in KINDS.into_iter().filter(|kind| kind[0] != "up") {
            let report = run(relay, tls.as_ref(), kind);
            let is_told = report["corrupt"].as_u64() > Some(0);
            assert!(is_told, "byte {at}, {kind:?}: {report}");
        }
    }
}

#[test]
fn every_load_tells_when_a_byte_to_the_endpoint_was_changed() {
    // One in the hello, one behind it where more than the hello is sent.
    for (tls, at, kinds) in [
        (None, 30, &KINDS[..]),
        (None, 1500, &KINDS[4..]),
        (Some(certificate()), 30, &KINDS[..]),
        (Some(certificate()), 1500, &KINDS[4..]),
    ] {
        let relay = relay(Some((Way::Up, Fault::Changed(at))), tls.as_ref());
        for kind in kinds {
            let report = run(relay, tls.as_ref(), kind);
            let is_told = report["errors"].as_u64() > Some(0);
            assert!(is_told, "byte {at}, {kind:?}: {report}");
        }
    }
}

/// Whoever drops most of what it gets sees by the rest whether that is where it must be.
#[test]
fn sampled_loads_tell_when_a_byte_was_lost() {
    let relay_as_it_is = relay(None, None);
    for (kind, way) in [("down", Way::Down), ("up", Way::Up)] {
        let kind = [kind, "--streams", "4", "--sampled"];
        let report = run(relay_as_it_is, None, &kind);
        assert_eq!(report["errors"], 0, "{kind:?}: {report}");
        assert!(report["bytes"].as_u64() > Some(0), "{kind:?}: {report}");
        let lossy = relay(Some((way, Fault::Lost(100_000))), None);
        let report = run(lossy, None, &kind);
        assert!(report["errors"].as_u64() > Some(0), "{kind:?}: {report}");
    }
}

#[test]
fn endpoint_is_refused_when_another_authority_has_signed_for_it() {
    let (own, others) = (certificate(), certificate());
    // Both are signed by this process's authority: let the client know another one.
    let wrong = others.path().join("certificate.pem");
    std::fs::copy(wrong, others.path().join("authority.pem")).unwrap();
    let relay = relay(None, Some(&own));
    let report = run(relay, Some(&others), &["down"]);
    let told = report["error"].as_str().unwrap_or_default();
    assert!(told.contains("invalid peer certificate"), "{report}");
}

/// Those that send more than their hello come last.
const KINDS: [&[&str]; 6] = [
    &["down", "--streams", "4"],
    &["connect", "--streams", "8"],
    &["connect", "--streams", "8", "--close", "rst"],
    &["connect", "--streams", "8", "--rate", "500"],
    &["exchange", "--streams", "4", "--size", "100000"],
    &["up", "--streams", "4"],
];

/// A directory with what TLS needs.
fn certificate() -> Scratch {
    let scratch = Scratch::create(&unique_name());
    tls::write_certificate(scratch.path()).unwrap();
    scratch
}

/// Loads an address for a moment; longer where the machine is too busy to get anything done.
fn run(to: SocketAddr, tls: Option<&Scratch>, kind: &[&str]) -> Value {
    for time in [150, 1_500, 15_000] {
        let report = run_for(time, to, tls, kind);
        let keys = ["errors", "bytes", "count"];
        if keys.iter().any(|key| report[key].as_u64() > Some(0)) {
            return report;
        }
    }
    panic!("{kind:?} does nothing at all");
}

fn run_for(time: u32, to: SocketAddr, tls: Option<&Scratch>, kind: &[&str]) -> Value {
    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }
    let (to, time) = (to.to_string(), time.to_string());
    let mut words = vec!["load", "--to", &to, "--warm-up", "20", "--measure", &time];
    words.extend(kind);
    let mut args = Cli::try_parse_from(words).unwrap().args;
    args.tls = tls.map(|dir| dir.path().to_owned());
    measure(&args).unwrap_or_else(|error| broken(&error))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// What happens to one byte of every connection.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Changed(usize),
    Lost(usize),
}

/// Starts an endpoint and what is between it and the client.
fn relay(fault: Option<(Way, Fault)>, tls: Option<&Scratch>) -> SocketAddr {
    let (tell, told) = mpsc::channel();
    let tls = tls.map(|dir| tls::Server::new(dir.path()).unwrap());
    thread::spawn(move || {
        let mut server = Server::new(tls).unwrap();
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
            let fault_of = |way| fault.filter(|(of, _)| *of == way).map(|(_, fault)| fault);
            let (up, down) = (fault_of(Way::Up), fault_of(Way::Down));
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || pass_on(from, to, up));
            thread::spawn(move || pass_on(server, client, down));
        }
    });
    at
}

/// Passes bytes and the end on, but for the fault.
fn pass_on(mut from: TcpStream, mut to: TcpStream, fault: Option<Fault>) {
    let mut buffer = vec![0; 64 * 1024];
    let mut passed = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(len) if len > 0 => {
                let here = |at: usize| at.checked_sub(passed).filter(|at| *at < len);
                let mut left = len;
                match fault {
                    Some(Fault::Changed(at)) => {
                        here(at).into_iter().for_each(|at| buffer[at] ^= 1);
                    }
                    Some(Fault::Lost(at)) => {
                        if let Some(at) = here(at) {
                            buffer.copy_within(at + 1..len, at);
                            left -= 1;
                        }
                    }
                    None => {}
                }
                passed += len;
                if to.write_all(&buffer[..left]).is_err() {
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
