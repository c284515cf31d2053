//! Which datapath a router chooses, and what it says when it cannot have the best.

use rstest::rstest;
use sni_router_tests::access::Access;
use sni_router_tests::daemon::{Launch, Router};
use sni_router_tests::raw::{accept, hello, read_exactly, write};
use sni_router_tests::rig::{HOST, Lab, Rig};
use sni_router_tests::topology::{Family, VIP4};
use sni_router_tests::wait::SOON;

/// Without these no BPF program can be loaded; CAP_SYS_ADMIN stands in for both.
const NO_BPF: [&str; 3] = ["bpf", "perfmon", "sys_admin"];

/// One connection with a message each way.
fn serve_one(lab: &Lab, router: &Router) -> Access {
    let listener = lab.listen(0);
    let client = lab.connect(Family::V4);
    let hello = hello(HOST);
    write(&client, &hello);
    let server = accept(&listener, SOON);
    assert_eq!(read_exactly(&server, hello.len(), SOON), hello);
    write(&server, b"pong");
    assert_eq!(read_exactly(&client, 4, SOON), b"pong");
    let address = client.local_addr().expect("a socket");
    drop((client, server));
    router.log().access_of(address, SOON)
}

fn lab() -> Lab {
    let lab = Lab::new(1);
    Rig::site(&lab).write_to(&lab.manifests());
    lab
}

#[test]
fn auto_takes_tc_where_the_kernel_has_it() {
    let lab = lab();
    let router = lab.start_with(&["--datapath", "auto", "--claim-vips"], &[]);
    let access = serve_one(&lab, &router);
    assert_eq!(access.datapath, "tc", "{access:?}");
    assert_eq!(access.declined, "", "{access:?}");
}

/// The kernel's own choice of ports is not ours to take from: without `--reserve-ports` it is
/// carried in userspace.
#[test]
fn auto_takes_userspace_where_the_ports_are_somebody_elses() {
    let lab = lab();
    let args = [
        "--datapath",
        "auto",
        "--claim-vips",
        "--tc-ports",
        "40000-41000",
    ];
    let router = lab.start_with(&args, &[]);
    let access = serve_one(&lab, &router);
    assert_eq!(access.datapath, "userspace", "{access:?}");
    router.log().wait_for_line("--reserve-ports", SOON);
}

#[test]
fn auto_without_bpf_serves_in_userspace_and_names_the_capability() {
    let lab = lab();
    let router = lab.start_with(&["--datapath", "auto", "--claim-vips"], &NO_BPF);
    let access = serve_one(&lab, &router);
    assert_eq!(access.datapath, "userspace", "{access:?}");
    let log = router.log().text();
    let said = log.lines().find(|line| line.contains("CAP_BPF"));
    let said = said.unwrap_or_else(|| panic!("no word of CAP_BPF in the log"));
    assert!(
        said.contains("WARN") && said.contains("userspace"),
        "{said}"
    );
}

#[test]
fn sockmap_without_bpf_refuses_to_start_and_names_the_capability() {
    let lab = lab();
    let launch = Launch {
        manifests: Some(&lab.manifests()),
        admin: &lab.admin(),
        args: &["--datapath", "sockmap", "--claim-vips"],
        without: &NO_BPF,
    };
    let mut router = Router::launch(&lab.net.router, &launch);
    let status = router.wait_exit(SOON);
    assert!(!status.success(), "{status}");
    router.log().wait_for_line("CAP_BPF", SOON);
}

/// A VIP that nobody has is served by nobody; the warning says what to do about it.
#[rstest]
#[case::userspace("userspace")]
#[case::sockmap("sockmap")]
fn vip_of_no_interface_is_a_warning_that_names_the_flag(#[case] datapath: &str) {
    let lab = lab();
    let router = lab.start_with(&["--datapath", datapath], &[]);
    let line = router.log().wait_for_line("--claim-vips", SOON);
    assert!(line.contains("WARN"), "{line}");

    // Given to an interface later, it is served without a restart.
    lab.net
        .router
        .batch(&format!("addr add {VIP4}/32 dev lo\n"));
    let access = serve_one(&lab, &router);
    assert_eq!(access.datapath, datapath, "{access:?}");
}
