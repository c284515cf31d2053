//! A packet on one CPU while the daemon, on another one, makes a flow of its connection.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use sni_router_common::handshake::seen;

use super::handshakes::ISN;
use super::taking::Flagged;
use super::*;

/// The daemon makes the flow, and then forgets the handshake. A packet for which the program has looked for the one too
/// early, and for the other too late, is not the stack's.
#[test]
fn packet_finds_the_handshake_or_the_flow() {
    let mut flagged = Flagged::new(Family::V4);
    let program = flagged.memory.program.again();
    let sides = flagged.memory.program.sides;
    // Behind a gap, so that it is never taken, and large, so that the program needs a while to sum it up.
    let segment = Segment {
        seq: ISN.wrapping_add(1000),
        payload: vec![1; 3000],
        ..Segment::new(sides.client, sides.vip)
    };
    let packet = ether(&segment.ip());
    let [up, down] = [up(sides), down(sides)].map(|flow| Flow { mtu: 9000, ..flow });
    let runs = AtomicU64::new(0);
    let mut verdicts = BTreeMap::new();
    flagged.flag(&segment, seen::TAKEN, 10);
    thread::scope(|scope| {
        // So that not more than one thing changes during a run.
        let a_run_is_over = || {
            let (before, begun) = (runs.load(Ordering::SeqCst), Instant::now());
            while runs.load(Ordering::SeqCst) < before + 2 {
                assert!(begun.elapsed() < SOON, "the program does not run");
            }
        };
        let daemon = scope.spawn(move || {
            for _ in 0..CONNECTIONS {
                a_run_is_over();
                flagged.memory.program.insert(&up, &down);
                flagged.memory.forget(&segment);
                a_run_is_over();
                flagged.flag(&segment, seen::TAKEN, 10);
                flagged.memory.program.remove();
            }
        });
        while !daemon.is_finished() {
            *verdicts.entry(verdict(&program, &packet)).or_insert(0) += 1;
            runs.fetch_add(1, Ordering::SeqCst);
        }
    });
    let kinds: Vec<_> = verdicts.keys().copied().collect();
    assert_eq!(kinds, [SHOT, REDIRECT], "how often: {verdicts:?}");
}

fn verdict(program: &SchedClassifier, packet: &[u8]) -> i32 {
    let mut options = TestRunOptions::new();
    options.data_in = Some(packet);
    let result = program.test_run(options).expect("run the program");
    result.return_value as i32
}

/// One in ten thousand met it.
const CONNECTIONS: u32 = 30_000;
