//! The access log: what is in a record, how many there are, and the file they go to.

mod file;
mod quota;

use std::fs;
use std::net::{Shutdown, SocketAddr};
use std::path::{Path, PathBuf};

use rstest::rstest;
use sni_router_tests::access::{Access, read};
use sni_router_tests::daemon::Datapath;
use sni_router_tests::raw::{End, Hello, hello, read_exactly, read_to_end, reset, write};
use sni_router_tests::rig::{HOST, Lab, Pair, Rig};
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until_some};

/// What no log must say.
const SECRET: &str = "attack-at-dawn";

/// A rig whose router writes its records to `access.log` in the lab's directory.
fn with_file(datapath: Datapath, args: &[&str]) -> (Rig, PathBuf) {
    let lab = Lab::new(1);
    let endpoint = lab.listen(0);
    Rig::site(&lab).write_to(&lab.manifests());
    let file = lab.dir().join("access.log");
    let flag = ["--access-log", file.to_str().expect("a path of the lab")];
    let router = lab.start(datapath, &[&flag, args].concat());
    (Rig::of(router, endpoint, lab, datapath), file)
}

/// The record of the client at this address in a file.
#[track_caller]
fn record_of(file: &Path, client: SocketAddr) -> Access {
    let client = client.to_string();
    until_some("the record of a client", SOON, || {
        read(file)
            .into_iter()
            .find(|record| record.client == client)
    })
}

/// Sends what is not TLS, and waits for the end.
fn send_secret(rig: &Rig) -> SocketAddr {
    let client = rig.lab.connect(Family::V4);
    write(
        &client,
        format!("GET /{SECRET} HTTP/1.1\r\n\r\n").as_bytes(),
    );
    read_to_end(&client, SOON);
    client.local_addr().expect("a connected socket")
}

/// Both sides finish, the one that is told to first.
fn finish(pair: &Pair, client_is_first: bool) {
    let (first, second) = match client_is_first {
        true => (&pair.client, &pair.server),
        false => (&pair.server, &pair.client),
    };
    first.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(second, SOON), (Vec::new(), End::Fin));
    second.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(first, SOON), (Vec::new(), End::Fin));
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn carried_connection_is_told_whole_and_its_bytes_are_not(#[case] datapath: Datapath) {
    let (rig, file) = with_file(datapath, &[]);
    let bytes = Hello {
        alpn: Some("h2"),
        ..Hello::default()
    }
    .bytes(Some(HOST));
    let pair = Pair::greet(rig.lab.connect(Family::V4), &bytes, &rig.endpoint).answered();
    write(&pair.client, SECRET.as_bytes());
    assert_eq!(
        read_exactly(&pair.server, SECRET.len(), SOON),
        SECRET.as_bytes()
    );
    finish(&pair, true);

    let record = record_of(&file, pair.address);
    rig.assert_carried(&record, &[]);
    assert_eq!(record.reason, "done", "{record:?}");
    assert_eq!(record.sni, HOST, "{record:?}");
    assert_eq!((&*record.alpn, &*record.tls), ("h2", "1.3"), "{record:?}");
    assert_eq!(record.bytes_up, pair.up + SECRET.len() as u64, "{record:?}");
    // Ours is rustls with one version and one protocol; what its lists hash to is its business.
    assert!(record.ja4.starts_with("t13d"), "{record:?}");
    assert_eq!(&record.ja4[8..11], "h2_", "{record:?}");
    assert_eq!(record.ja4.len(), 36, "{record:?}");
    assert_eq!(
        record.start.len(),
        "2026-06-01T09:30:05.412Z".len(),
        "{record:?}"
    );
    assert_eq!(record.suppressed, 0, "{record:?}");

    let text = fs::read_to_string(&file).expect("the access log");
    assert!(!text.contains(SECRET));
    assert!(
        rig.router.log().access().is_empty(),
        "also on standard error"
    );
    assert!(!rig.router.log().text().contains(SECRET));
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn closed_by_names_whose_end_came_first(#[case] datapath: Datapath) {
    let rig = Rig::start(datapath, &["--idle-timeout", "2s"]);
    let closed_by = |address, reason: &str| {
        let record = rig.access(address);
        assert_eq!(record.reason, reason, "{record:?}");
        record.closed_by
    };
    // The kernel program does not note which FIN was first.
    let knows_fins = datapath != Datapath::Tc;
    for (client_is_first, who) in [(true, "client"), (false, "endpoint")] {
        let pair = rig.open();
        finish(&pair, client_is_first);
        let expected = if knows_fins { who } else { "" };
        assert_eq!(closed_by(pair.address, "done"), expected);
    }

    let Pair {
        client,
        server,
        address,
        ..
    } = rig.open();
    reset(client);
    assert_eq!(read_to_end(&server, SOON).1, End::Reset);
    assert_eq!(closed_by(address, "client_reset"), "client");

    let Pair {
        client,
        server,
        address,
        ..
    } = rig.open();
    reset(server);
    assert_eq!(read_to_end(&client, SOON).1, End::Reset);
    assert_eq!(closed_by(address, "endpoint_reset"), "endpoint");

    // Whoever resets what the other side has ended did not begin.
    let Pair {
        client,
        server,
        address,
        ..
    } = rig.open();
    server.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(&client, SOON), (Vec::new(), End::Fin));
    reset(client);
    let expected = if knows_fins { "endpoint" } else { "client" };
    assert_eq!(closed_by(address, "client_reset"), expected);

    let silent = rig.open();
    assert_eq!(closed_by(silent.address, "idle_timeout"), "router");
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn rejected_connection_says_why_and_nothing_of_its_bytes(#[case] datapath: Datapath) {
    let (rig, file) = with_file(datapath, &[]);
    let record = record_of(&file, send_secret(&rig));
    assert_eq!(record.reason, "not_tls", "{record:?}");
    assert_eq!(record.closed_by, "router", "{record:?}");
    assert_eq!(
        (&*record.sni, &*record.ja4, &*record.datapath),
        ("", "", ""),
        "{record:?}"
    );

    let unknown = rig.lab.connect(Family::V4);
    write(&unknown, &hello("unknown.example.com"));
    read_to_end(&unknown, SOON);
    let record = record_of(&file, unknown.local_addr().expect("a connected socket"));
    assert_eq!(record.reason, "unknown_host", "{record:?}");
    assert_eq!(record.sni, "unknown.example.com", "{record:?}");
    assert!(record.ja4.starts_with("t13d"), "{record:?}");

    let gone = rig.lab.connect(Family::V4);
    gone.shutdown(Shutdown::Write).expect("shutdown");
    read_to_end(&gone, SOON);
    let record = record_of(&file, gone.local_addr().expect("a connected socket"));
    assert_eq!(record.reason, "client_gone", "{record:?}");
    assert_eq!(record.closed_by, "client", "{record:?}");

    let text = fs::read_to_string(&file).expect("the access log");
    assert!(!text.contains(SECRET) && !rig.router.log().text().contains(SECRET));
}
