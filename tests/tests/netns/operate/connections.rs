//! Listing connections, and ending them.

use rstest::rstest;
use sni_router_tests::daemon::Datapath;
use sni_router_tests::raw::{End, read_to_end};
use sni_router_tests::rig::{HOST, Rig};
use sni_router_tests::topology::{CLIENT4, Family};
use sni_router_tests::wait::{SOON, until};

use super::{connections, operate, text};

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn connections_are_listed_until_they_are_over(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    let pair = rig.open();
    let other = rig.open();
    pair.exchange();
    let client = pair.address.to_string();
    let list = |flags: &[&str]| connections(&rig.lab, flags);
    let found = list(&["--client", &client]);
    let [found] = found.as_slice() else {
        panic!("{found:?}")
    };
    for (field, value) in [
        ("client", client.as_str()),
        ("vip", "1.2.3.4:443"),
        ("host", HOST),
        ("route", HOST),
        ("endpoint", &rig.lab.endpoint(0).to_string()),
        ("datapath", datapath.name()),
        ("state", "carried"),
    ] {
        assert_eq!(found[field], value, "{found}");
    }
    // What the kernel moves while a connection is handed over is told when that is done.
    until("its bytes are told", SOON, || {
        let found = &list(&["--client", &client])[0];
        found["bytes_up"] == pair.up + 4 && found["bytes_down"] == pair.down + 4
    });
    pair.exchange();
    let now = &list(&["--client", &client])[0];
    assert_eq!(now["bytes_up"], pair.up + 8, "{now}");
    assert_eq!(now["bytes_down"], pair.down + 8, "{now}");
    assert!(found["age_seconds"].as_f64() < Some(60.0), "{found}");
    assert!(found["idle_seconds"].as_f64() < Some(60.0), "{found}");
    for (flags, count) in [
        (&[][..], 2),
        (&["--client", "192.168.10.0/24"], 2),
        (&["--client", "192.168.11.0/24"], 0),
        (&["--host", "*.example.com"], 2),
        (&["--host", "two.example.com"], 0),
        (&["--listener", "default/web"], 2),
        (&["--datapath", datapath.name()], 2),
        (&["--limit", "1"], 1),
        (&["--limit", "0"], 2),
    ] {
        assert_eq!(list(flags).len(), count, "{flags:?}");
    }
    let text = text(&operate(&rig.lab, &["connections"]));
    assert!(text.contains(&client) && text.contains(HOST), "{text}");
    drop((pair, other));
    until("all connections are over", SOON, || list(&[]).is_empty());
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn closed_connection_is_cut_and_others_go_on(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &[]);
    let (cut, other) = (rig.open(), rig.open());
    let client = cut.address.to_string();
    let id = connections(&rig.lab, &["--client", &client])[0]["id"].to_string();
    let output = operate(&rig.lab, &["close", &id]);
    assert_eq!(text(&output), "1 closed\n");
    assert_eq!(read_to_end(&cut.client, SOON).1, End::Reset);
    assert_eq!(read_to_end(&cut.server, SOON).1, End::Reset);
    assert_eq!(rig.access(cut.address).reason, "closed");
    other.exchange();

    let client = other.address.to_string();
    let output = operate(&rig.lab, &["close", "--client", &client]);
    assert_eq!(text(&output), "1 closed\n");
    assert_eq!(read_to_end(&other.client, SOON).1, End::Reset);
    for (args, code) in [
        (&["close"][..], 2),
        (&["close", &id], 2),
        (&["close", "--host", "x"], 0),
    ] {
        let output = operate(&rig.lab, args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?} {}",
            text(&output)
        );
    }
}

/// One that says nothing is seen, too, and can be told to go.
#[test]
fn client_without_a_hello_is_listed_and_can_be_closed() {
    let rig = Rig::start(Datapath::Tc, &["--hello-timeout", "60s"]);
    let client = rig.lab.connect(Family::V4);
    until("it is listed", SOON, || {
        let found = connections(&rig.lab, &[]);
        found.len() == 1 && found[0]["state"] == "hello"
    });
    operate(&rig.lab, &["close", "--client", &CLIENT4.to_string()]);
    read_to_end(&client, SOON);
    let address = client.local_addr().expect("a connected socket");
    let access = rig.router.log().access_of(address, SOON);
    assert_eq!(access.reason, "closed", "{access:?}");
}
