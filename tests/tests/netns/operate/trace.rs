//! Following single connections.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use sni_router_tests::daemon::{Datapath, binary};
use sni_router_tests::raw::{hello, read_to_end, write};
use sni_router_tests::rig::{HOST, Rig};
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until_some};

/// Steps come as they happen, those of other hosts do not.
#[test]
fn trace_follows_a_connection_from_accept_to_close() {
    let rig = Rig::start(Datapath::Tc, &[]);
    let mut command = Command::new(binary());
    command.args(["trace", "--admin", &rig.lab.admin(), "--host", HOST]);
    let child = command.stdout(Stdio::piped()).spawn();
    let mut child = child.expect("run sni-router");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut phases = Vec::new();
    let (told, steps) = channel();
    let reader = thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = told.send(line);
        }
    });
    // Whoever has just begun to follow may not see the first connections, or only the end of one.
    let client = until_some("a whole connection", SOON, || {
        let address = rig.open().address.to_string();
        let mut told = std::iter::from_fn(|| steps.recv_timeout(Duration::from_millis(500)).ok());
        let first = told.find(|line| line.contains(&address) && line.contains(" hello: "));
        phases.push(first?);
        Some(address)
    });
    while !phases.iter().any(|line| line.contains(" closed: ")) {
        let step = steps.recv_timeout(SOON).expect("another step");
        if step.contains(&client) {
            phases.push(step);
        }
    }
    let other = rig.lab.connect(Family::V4);
    write(&other, &hello("other.example.org"));
    read_to_end(&other, SOON);
    child.kill().expect("kill it");
    child.wait().expect("its end");
    reader.join().expect("the reader");
    phases.extend(steps.try_iter());
    let all = phases.join("\n");
    for phase in [
        "hello: of",
        "routed: by one.example.com",
        "connected: to",
        "carried: by tc",
        "closed: done",
    ] {
        let line = phases.iter().find(|line| line.contains(phase));
        assert!(
            line.is_some_and(|line| line.contains(&client)),
            "no {phase:?} in\n{all}"
        );
    }
    assert!(!all.contains("other.example.org"), "{all}");
}
