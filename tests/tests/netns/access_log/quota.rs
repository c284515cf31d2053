//! How many records there are.

use std::time::{Duration, Instant};

use rstest::rstest;
use sni_router_tests::access::Access;
use sni_router_tests::daemon::Datapath;
use sni_router_tests::raw::{End, hello, read_to_end, reset, write};
use sni_router_tests::rig::Rig;
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until};

use super::{finish, send_secret};

/// All that a flood of rejected connections leaves are a few records, whose counts add up to all of
/// it; other reasons, and what is carried, are told as before.
#[test]
fn flood_of_rejects_leaves_few_records_that_add_up() {
    const FLOOD: u64 = 300;
    let mut rig = Rig::start(Datapath::Userspace, &["--access-log-rejects", "5"]);
    let start = Instant::now();
    for _ in 0..FLOOD {
        send_secret(&rig);
    }
    let took = start.elapsed();
    let unknown = rig.lab.connect(Family::V4);
    write(&unknown, &hello("unknown.example.com"));
    read_to_end(&unknown, SOON);
    let pair = rig.open();
    finish(&pair, true);
    assert_eq!(rig.access(pair.address).suppressed, 0);
    let log = rig.router.log();
    let record = log.wait_for_access(SOON, |record| record.reason == "unknown_host");
    assert_eq!(record.suppressed, 0, "{record:?}");

    let of_flood = |record: &Access| record.reason == "not_tls";
    let told = || {
        log.access()
            .into_iter()
            .filter(of_flood)
            .map(|one| 1 + one.suppressed)
            .sum::<u64>()
    };
    let (written, counted) = (
        log.access().iter().filter(|one| of_flood(one)).count(),
        told(),
    );
    let most = 5 + 5 * (took.as_secs() as usize + 2);
    assert!(
        (5..=most).contains(&written),
        "{written} records in {took:?}"
    );
    assert!(counted <= FLOOD, "{counted}");
    // The next record that there is room for tells of the rest. There is, after a fifth of a second.
    let (mut last, mut sent, mut at) = (send_secret(&rig), FLOOD + 1, Instant::now());
    until("a record that tells of the rest", SOON, || {
        if at.elapsed() > Duration::from_millis(300) {
            (last, sent, at) = (send_secret(&rig), sent + 1, Instant::now());
        }
        log.access()
            .iter()
            .any(|record| record.client == last.to_string())
    });
    assert_eq!(told(), sent);

    // What nobody has told when the router stops, it says itself.
    for _ in 0..20 {
        send_secret(&rig);
    }
    rig.router.terminate(SOON);
    let said = rig
        .router
        .log()
        .wait_for_line("left out of the access log", SOON);
    assert!(said.contains("not_tls"), "{said}");
}

#[test]
fn no_record_of_rejects_is_written_when_none_is_wanted() {
    let mut rig = Rig::start(Datapath::Userspace, &["--access-log-rejects", "0"]);
    for _ in 0..3 {
        send_secret(&rig);
    }
    let pair = rig.open();
    finish(&pair, true);
    assert_eq!(rig.access(pair.address).reason, "done");
    assert_eq!(rig.router.log().access().len(), 1);
    rig.router.terminate(SOON);
    let said = rig
        .router
        .log()
        .wait_for_line("left out of the access log", SOON);
    assert!(said.contains("\"suppressed\":3"), "{said}");
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::tc(Datapath::Tc)]
fn sample_is_of_what_ended_well(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &["--access-log-sample", "10"]);
    for _ in 0..30 {
        finish(&rig.open(), true);
    }
    for _ in 0..3 {
        let pair = rig.open();
        reset(pair.client);
        assert_eq!(read_to_end(&pair.server, SOON).1, End::Reset);
    }
    let log = rig.router.log();
    let of = |reason: &str| {
        log.access()
            .into_iter()
            .filter(|one| one.reason == reason)
            .collect::<Vec<_>>()
    };
    until("the records", SOON, || {
        of("client_reset").len() == 3 && of("done").len() == 3
    });
    let suppressed: Vec<_> = of("done").iter().map(|one| one.suppressed).collect();
    assert_eq!(suppressed, [0, 9, 9]);
}
