//! Changing by which interface a flow leaves.

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use sni_router_common::flow::{End, Flow, Led, option};
use sni_router_common::names;
use sni_router_tests::topology::Family;
use zerocopy::IntoBytes as _;

use super::Program;

/// Whether the program found what it was to change.
fn lead(program: &mut Program, led: &Led) -> bool {
    let lead = program.ebpf.program_mut(names::PROG_LEAD);
    let lead: &mut SchedClassifier = lead.expect("a program").try_into().expect("a classifier");
    let mut options = TestRunOptions::new();
    options.data_in = Some(led.as_bytes());
    lead.test_run(options).expect("run it").return_value == 0
}

#[test]
fn flow_leaves_by_what_the_daemon_says_and_no_other_flow_does() {
    let mut program = Program::load(Family::V4);
    let (up, down) = (program.sides.up(), program.sides.down());
    let flow = |program: &Program, key| program.flows.get(key, 0).expect("a flow");
    let [was, other] = [&up, &down].map(|key| flow(&program, key));
    let led = Led {
        key: up,
        id: was.id,
        ifindex: was.ifindex + 1,
        mtu: was.mtu - 1,
        shortcut: 1,
    };
    let id = led.id.wrapping_add(1);
    assert!(!lead(&mut program, &Led { id, ..led }));
    assert_eq!(flow(&program, &up), was);
    assert!(lead(&mut program, &led));
    let now = Flow {
        ifindex: led.ifindex,
        mtu: led.mtu,
        options: was.options | option::SHORTCUT,
        ..was
    };
    assert_eq!(flow(&program, &up), now);
    assert_eq!(flow(&program, &down), other);
    let shortcut = 0;
    assert!(lead(&mut program, &Led { shortcut, ..led }));
    let options = was.options;
    assert_eq!(flow(&program, &up), Flow { options, ..now });
    let closed = Flow {
        closed: End::Finished as u8,
        ..was
    };
    program.insert(&closed, &other);
    assert!(!lead(&mut program, &led));
    program.remove();
    assert!(!lead(&mut program, &led));
}
