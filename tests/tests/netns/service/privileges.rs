//! What a router may still do once it has started, and that it is enough.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};

use rstest::rstest;
use rustix::process::Signal;
use rustix::thread::CapabilitySet;
use sni_router_tests::daemon::Datapath;
use sni_router_tests::rig::{Lab, Rig};
use sni_router_tests::site::PORT;
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until};

use super::threads::threads;
use super::user::USER;

/// All tests of a datapath run with what is left; this one says what that is.
#[rstest]
#[case::userspace(
    Datapath::Userspace,
    CapabilitySet::NET_ADMIN | CapabilitySet::NET_BIND_SERVICE
)]
#[case::sockmap(Datapath::Sockmap, CapabilitySet::NET_ADMIN)]
#[case::tc(
    Datapath::Tc,
    CapabilitySet::NET_ADMIN | CapabilitySet::NET_BIND_SERVICE
)]
fn no_thread_of_a_started_router_has_more_than_it_needs(
    #[case] datapath: Datapath,
    #[case] kept: CapabilitySet,
) {
    let kept = kept | CapabilitySet::DAC_READ_SEARCH;
    let rig = Rig::start(datapath, &[]);
    // Threads that look into files come and go.
    rig.router.signal(Signal::HUP);
    let pair = rig.open();
    for thread in threads(rig.router.pid()) {
        for (set, expected) in [
            ("CapEff", kept.bits()),
            ("CapPrm", kept.bits()),
            ("CapInh", 0),
            ("CapBnd", 0),
            ("CapAmb", 0),
        ] {
            assert_eq!(thread.set(set), expected, "{set} of {}", thread.name);
        }
        assert_eq!(thread.value("NoNewPrivs"), "1", "{}", thread.name);
    }
    pair.exchange();
}

/// Where there is no VIP to claim and no flow to carry, there is nothing to administer.
#[rstest]
#[case::userspace(Datapath::Userspace, CapabilitySet::NET_BIND_SERVICE)]
#[case::sockmap(Datapath::Sockmap, CapabilitySet::empty())]
fn router_that_changes_nothing_on_its_host_keeps_no_right_to(
    #[case] datapath: Datapath,
    #[case] kept: CapabilitySet,
) {
    let lab = Lab::new(1);
    let endpoint = lab.listen(0);
    Rig::site(&lab).write_to(&lab.manifests());
    let vip = Family::V4.vip();
    lab.net.router.batch(&format!("addr add {vip}/32 dev lo\n"));
    let router = lab.start_with(&["--datapath", datapath.name()], &[]);
    let kept = kept | CapabilitySet::DAC_READ_SEARCH;
    for thread in threads(router.pid()) {
        assert_eq!(thread.set("CapPrm"), kept.bits(), "{}", thread.name);
    }
    let rig = Rig::of(router, endpoint, lab, datapath);
    rig.open().exchange();
}

/// Ports below 1024 are bound, interfaces get the program, VIPs are claimed also after the start.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::tc(Datapath::Tc)]
fn what_comes_after_the_start_is_served_as_well(#[case] datapath: Datapath) {
    let lab = Lab::new(1);
    let site = Rig::site(&lab).vip(Family::V4.vip());
    site.write_to(&lab.manifests());
    let router = lab.start(datapath, &[]);
    let lines = "link add late0 type veth peer name late1\nlink set late0 up\n";
    lab.net.router.batch(lines);
    if datapath == Datapath::Tc {
        until("late0 has the program", SOON, || {
            let log = router.log().text();
            let mut lines = log.lines().filter(|line| line.contains("late0"));
            lines.any(|line| line.contains("\"attached\""))
        });
    }
    Rig::site(&lab).write_to(&lab.manifests());
    for family in Family::ALL {
        let vip = SocketAddr::new(family.vip(), PORT);
        until("a client can connect", SOON, || {
            lab.net.client.connect(vip, SOON).is_ok()
        });
    }
    let log = router.log().text();
    assert!(!log.contains("cannot"), "{log}");
}

#[test]
fn privileges_are_kept_on_request() {
    let rig = Rig::start(Datapath::Userspace, &["--keep-privileges"]);
    let own = fs::read_to_string("/proc/self/status").expect("the test's own status");
    for thread in threads(rig.router.pid()) {
        let expected = format!("CapPrm:\t{:016x}", thread.set("CapPrm"));
        assert!(own.contains(&expected), "{}: {expected}", thread.name);
    }
}

/// As in a home directory, with `sudo`.
#[test]
fn manifests_that_only_another_user_may_read_are_read_by_root() {
    let rig = Rig::start(Datapath::Userspace, &[]);
    let manifests = rig.lab.manifests();
    chown(&manifests, Some(USER), Some(USER)).expect("chown");
    let private = fs::Permissions::from_mode(0o700);
    fs::set_permissions(&manifests, private).expect("chmod");
    let before = rig.router.generation();
    Rig::site(&rig.lab)
        .route("two.example.com", "one")
        .write_to(&manifests);
    rig.router.wait_for_generation_after(before);
    rig.open().exchange();
}
