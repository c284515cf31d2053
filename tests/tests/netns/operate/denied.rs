//! Clients that are not served.

use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use rstest::rstest;
use sni_router_tests::access::Access;
use sni_router_tests::daemon::{Datapath, binary};
use sni_router_tests::netns::{Scratch, unique_name};
use sni_router_tests::raw::{End, hello, read_to_end, try_accept};
use sni_router_tests::rig::{HOST, Lab, Pair, Rig};
use sni_router_tests::site::PORT;
use sni_router_tests::topology::{Family, VIP4};
use sni_router_tests::wait::{SOON, until};

use super::{assert_refused, text};

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::tc(Datapath::Tc)]
fn denied_client_is_refused_and_its_connections_end(#[case] datapath: Datapath) {
    let lab = Lab::new(1);
    let endpoint = lab.listen(0);
    Rig::site(&lab).write_to(&lab.manifests());
    let file = lab.dir().join("denied");
    fs::write(&file, "# nobody yet\n").expect("write the file");
    let path = file.to_str().expect("a path in UTF-8");
    let router = lab.start(datapath, &["--deny-file", path]);
    let rig = Rig::of(router, endpoint, lab, datapath);
    let pair = rig.open();

    fs::write(&file, "not an address\n192.168.10.0/24\n").expect("write the file");
    assert_eq!(read_to_end(&pair.client, SOON).1, End::Reset);
    assert_eq!(read_to_end(&pair.server, SOON).1, End::Reset);
    assert_eq!(rig.access(pair.address).reason, "denied");
    assert_refused(&rig.lab);
    let is_refused = |access: &Access| access.reason == "denied" && access.endpoint.is_empty();
    rig.router.log().wait_for_access(SOON, is_refused);
    let bad = r#"line 1: \"not an address\""#;
    rig.router.log().wait_for_line(bad, SOON);
    // Whom it does not name is served.
    let client = rig.lab.connect(Family::V6);
    drop(Pair::greet(client, &hello(HOST), &rig.endpoint));

    fs::write(&file, "").expect("write the file");
    until("the client is served again", SOON, || {
        let Ok(client) = rig.lab.net.client.connect((VIP4, PORT).into(), SOON) else {
            return false;
        };
        // Fails where it is reset meanwhile.
        let _ = (&client).write_all(&hello(HOST));
        try_accept(&rig.endpoint, Duration::from_millis(100)).is_some()
    });
}

#[test]
fn start_is_refused_when_the_list_of_the_denied_cannot_be_read() {
    let scratch = Scratch::create(&unique_name());
    let mut command = Command::new(binary());
    command.args(["run", "--no-admin", "--datapath", "userspace"]);
    command.arg("--manifests").arg(scratch.path());
    command.args(["--deny-file", "/nowhere/denied"]);
    let output = command.output().expect("run sni-router");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output).contains("--deny-file /nowhere/denied"),
        "{}",
        text(&output)
    );
}
