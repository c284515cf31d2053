//! When the last packet came.

use rstest::rstest;
use rustix::time::{ClockId, clock_gettime};
use sni_router_common::flow::tick;

use super::*;

/// By the number of timer interrupts as by the kernel's own clock, which is read when the program is not told what that
/// number means.
#[rstest]
#[case::counted(Running::find())]
#[case::asked(Running::default())]
fn flow_says_when_its_last_packet_came(#[case] running: Running) {
    let program = Program::load_on(Family::V4, &running);
    let sides = program.sides;
    let before = now();
    program.run(&sides.client_sends().ip());
    let seen = program.flow(&sides.up()).seen;
    let after = now();
    // Either clock is as old as the last interrupt, at the most.
    let possible = before - 1..=after;
    assert!(possible.contains(&seen), "{seen}, and it is {after}");
}

#[test]
fn this_kernel_is_known() {
    let running = Running::find();
    assert!(running.clock.is_some(), "/proc/timer_list");
    assert!(running.summed.is_some(), "Linux 6.2");
}

fn now() -> u32 {
    let now = clock_gettime(ClockId::Monotonic);
    tick(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}
