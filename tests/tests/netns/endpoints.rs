//! Endpoints that refuse, are silent, or are gone.

use std::time::{Duration, Instant};

use rstest::rstest;
use sni_router_tests::access::Access;
use sni_router_tests::daemon::{Datapath, Router};
use sni_router_tests::raw::{End, accept, hello, read_exactly, read_to_end, try_accept, write};
use sni_router_tests::rig::{HOST, Lab};
use sni_router_tests::site::Site;
use sni_router_tests::topology::Family;
use sni_router_tests::wait::SOON;

/// Starts a router with [`HOST`] on these backends of the lab.
fn start(lab: &Lab, datapath: Datapath, backends: &[u8], args: &[&str]) -> Router {
    let endpoints = backends.iter().map(|n| lab.endpoint(*n));
    Site::new()
        .route(HOST, "one")
        .service("one", endpoints)
        .annotation(
            "ingress.citrix.com/lbvserver",
            r#"{"one":{"lbmethod":"ROUNDROBIN"}}"#,
        )
        .write_to(&lab.manifests());
    lab.start(datapath, args)
}

/// A connection that no endpoint takes: what came back, how it ended, and its record.
fn refused(lab: &Lab, router: &Router) -> (Vec<u8>, End, Access) {
    let client = lab.connect(Family::V4);
    write(&client, &hello(HOST));
    let (answer, end) = read_to_end(&client, SOON);
    let address = client.local_addr().expect("a socket");
    (answer, end, router.log().access_of(address, SOON))
}

/// The fatal alert internal_error (RFC 8446, section 6.2).
fn is_internal_error(bytes: &[u8]) -> bool {
    matches!(bytes, [0x15, 3, _, 0, 2, 2, 80])
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn endpoint_that_refuses_is_passed_over(#[case] datapath: Datapath) {
    let lab = Lab::new(2);
    let up = lab.listen(1);
    let router = start(&lab, datapath, &[0, 1], &[]);
    let hello = hello(HOST);
    let mut retried = 0;
    for _ in 0..8 {
        let client = lab.connect(Family::V4);
        write(&client, &hello);
        let server = accept(&up, SOON);
        assert_eq!(read_exactly(&server, hello.len(), SOON), hello);
        write(&server, b"!");
        assert_eq!(read_exactly(&client, 1, SOON), b"!", "carried");
        let address = client.local_addr().expect("a socket");
        drop((client, server));

        let access = router.log().access_of(address, SOON);
        assert_eq!(access.endpoint, lab.endpoint(1).to_string(), "{access:?}");
        assert_eq!(access.datapath, datapath.name(), "{access:?}");
        if access.retries > 0 {
            retried += 1;
            let failed = lab.endpoint(0).to_string();
            assert!(access.failed.contains(&failed), "{access:?}");
            assert!(
                access.failed.to_lowercase().contains("refused"),
                "{access:?}"
            );
        } else {
            assert_eq!(access.failed, "", "{access:?}");
        }
    }
    assert!(
        retried > 0,
        "round robin never came to the endpoint that is down"
    );
}

/// Its address does not answer at all, as that of a node that has lost power. It may take half of
/// the time there is.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn endpoint_that_is_silent_is_passed_over_in_time(#[case] datapath: Datapath) {
    let lab = Lab::new(2);
    silence(&lab, 0);
    let up = lab.listen(1);
    let router = start(&lab, datapath, &[0, 1], &["--connect-timeout", "500ms"]);
    let mut retried = 0;
    for _ in 0..4 {
        let client = lab.connect(Family::V4);
        let hello = hello(HOST);
        let begin = Instant::now();
        write(&client, &hello);
        let server = accept(&up, SOON);
        let waited = begin.elapsed();
        assert_eq!(read_exactly(&server, hello.len(), SOON), hello);
        let address = client.local_addr().expect("a socket");
        drop((client, server));
        let access = router.log().access_of(address, SOON);
        if access.retries > 0 {
            retried += 1;
            assert!(
                waited >= Duration::from_millis(200),
                "{waited:?} {access:?}"
            );
            assert!(waited < Duration::from_secs(3), "{waited:?} {access:?}");
        }
    }
    assert!(
        retried > 0,
        "round robin never came to the endpoint that is silent"
    );
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn client_gets_an_alert_when_all_endpoints_fail(#[case] datapath: Datapath) {
    let lab = Lab::new(2);
    let router = start(&lab, datapath, &[0, 1], &[]);
    let (answer, end, access) = refused(&lab, &router);
    assert!(is_internal_error(&answer), "{answer:02x?}");
    assert_eq!(end, End::Fin);
    assert_eq!(access.reason, "connect_failed", "{access:?}");
    for backend in [0, 1] {
        let failed = lab.endpoint(backend).to_string();
        assert!(access.failed.contains(&failed), "{access:?}");
    }
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn client_gets_an_alert_when_there_is_no_endpoint(#[case] datapath: Datapath) {
    let lab = Lab::new(1);
    let router = start(&lab, datapath, &[], &[]);
    let (answer, end, access) = refused(&lab, &router);
    assert!(is_internal_error(&answer), "{answer:02x?}");
    assert_eq!(end, End::Fin);
    assert_eq!(access.reason, "no_endpoint", "{access:?}");
}

/// The whole search for an endpoint is bounded, however many are silent.
#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn silent_endpoints_do_not_hold_a_client_for_ever(#[case] datapath: Datapath) {
    let lab = Lab::new(3);
    for backend in 0..3 {
        silence(&lab, backend);
    }
    let router = start(&lab, datapath, &[0, 1, 2], &["--connect-timeout", "400ms"]);
    let begin = Instant::now();
    let (answer, _, access) = refused(&lab, &router);
    assert!(is_internal_error(&answer), "{answer:02x?}");
    assert_eq!(access.reason, "connect_failed", "{access:?}");
    assert!(
        begin.elapsed() < Duration::from_secs(4),
        "{:?}",
        begin.elapsed()
    );
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn round_robin_reaches_every_endpoint_equally(#[case] datapath: Datapath) {
    let lab = Lab::new(2);
    let listeners = [lab.listen(0), lab.listen(1)];
    let _router = start(&lab, datapath, &[0, 1], &[]);
    let mut taken = [0, 0];
    for _ in 0..20 {
        let client = lab.connect(Family::V4);
        write(&client, &hello(HOST));
        let begin = Instant::now();
        'found: loop {
            for (n, listener) in listeners.iter().enumerate() {
                if try_accept(listener, Duration::from_millis(5)).is_some() {
                    taken[n] += 1;
                    break 'found;
                }
            }
            assert!(begin.elapsed() < SOON, "no endpoint was reached");
        }
    }
    assert_eq!(taken, [10, 10]);
}

/// Makes a backend answer nothing: what it sends to the router goes nowhere.
fn silence(lab: &Lab, backend: u8) {
    let ns = &lab.net.backends[usize::from(backend)];
    let router = 20 + backend;
    ns.batch(&format!("route add blackhole 192.168.{router}.1/32\n"));
}
