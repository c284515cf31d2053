//! What the program is told of the kernel that runs, and when the last packet came.

use rstest::rstest;
use rustix::time::{ClockId, clock_gettime};
use sni_router_common::flow::tick;
use sni_router_tests::linux::version;

use super::*;

/// By the number of timer interrupts as by the kernel's own clock, which is read where the program is not told what
/// that number means.
#[rstest]
#[case::counted(true)]
#[case::asked(false)]
fn flow_says_when_its_last_packet_came(#[case] is_told: bool) {
    let program = Program::load_as(Family::V4, is_told);
    let sides = program.sides;
    let before = now();
    program.run(&sides.client_sends().ip());
    let seen = program.flow(&sides.up()).seen;
    let after = now();
    // Either clock is as old as the last interrupt, and the count is written down a moment before the clock.
    let possible = before - 1..=after + 1;
    assert!(possible.contains(&seen), "{seen}, and it is {after}");
}

/// This kernel counts, and since 6.2 lets programs read its description of a packet, or the tests of what they do with
/// either test nothing.
#[test]
fn programs_are_told_of_this_kernel() {
    let (object, mut running) = (object(), Running::find());
    let has_instructions = {
        let told = running.tell(&mut EbpfLoader::new(), object);
        matches!(told, Cow::Owned(_))
    };
    assert_eq!(has_instructions, version() >= (6, 2));
    assert_ne!(running.clock.period, 0, "every kernel counts");
}

#[test]
fn kernel_that_refuses_them_gets_the_object_without() {
    let (object, mut running) = (object(), Running::wrong());
    let told = running.tell(&mut EbpfLoader::new(), object);
    assert!(matches!(told, Cow::Borrowed(_)), "it was not refused");
}

fn now() -> u32 {
    let now = clock_gettime(ClockId::Monotonic);
    tick(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}
