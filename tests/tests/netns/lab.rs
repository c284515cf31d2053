//! The lab itself, without a router.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use rstest::rstest;
use sni_router_tests::rig::{BACKEND_PORT, Lab};
use sni_router_tests::site::PORT;
use sni_router_tests::tls::client::{Client, Request};
use sni_router_tests::tls::{POST_QUANTUM, Version, pki, server};
use sni_router_tests::topology::{Family, VIP4, VIP6};

#[test]
fn router_namespace_forwards_nothing() {
    let lab = Lab::new(1);
    let _listener = lab.listen(0);
    for family in Family::ALL {
        let endpoint = lab.net.endpoint(0, family, BACKEND_PORT);
        let connected = lab.net.client.connect(endpoint, Duration::from_millis(300));
        assert!(
            connected.is_err(),
            "{endpoint} is reachable past the router"
        );
    }
}

#[test]
fn lab_is_gone_after_a_panic() {
    let mut left = Vec::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::new(1);
        left.push(Path::new("/run/netns").join(lab.net.router.name()));
        left.push(lab.dir().to_owned());
        assert!(left.iter().all(|path| path.exists()));
        panic!("as a failing test does");
    }));
    assert!(panicked.is_err());
    for path in left {
        assert!(!path.exists(), "{} is left behind", path.display());
    }
}

/// A server at the VIP itself, so that what the clients do is known without a router.
#[rstest]
#[case::rustls(Client::Rustls)]
#[case::openssl(Client::OpenSsl)]
#[case::curl(Client::Curl)]
fn client_reports_what_the_server_saw(#[case] client: Client) {
    let lab = Lab::new(0);
    lab.net.router.batch(&format!(
        "addr add {VIP4}/32 dev lo\naddr add {VIP6}/128 dev lo nodad\n"
    ));
    let host = "one.example.com";
    let identity = pki::server(&[host]);
    let user = pki::client("user");
    for family in Family::ALL {
        let at = SocketAddr::new(family.vip(), PORT);
        let listener = lab.net.router.listen(at);
        let options = server::Options {
            client_certificate: true,
            post_quantum: client == Client::Rustls,
        };
        let _server = server::spawn(listener, "direct", &identity, options);
        for version in Version::ALL {
            if options.post_quantum && version == Version::Tls12 {
                continue;
            }
            let request = Request {
                from: &lab.net.client,
                scratch: lab.dir(),
                to: at,
                host: Some(host),
                version,
                alpn: Some("http/1.1"),
                identity: Some(&user),
                post_quantum: options.post_quantum,
            };
            let answer = client.request(&request).expect("an answer");
            assert_eq!(answer.server, "direct");
            assert_eq!(answer.sni, host);
            assert_eq!(answer.version, version.name());
            assert_eq!(answer.alpn, "http/1.1");
            assert_eq!(answer.group == POST_QUANTUM, options.post_quantum);
            assert!(answer.client_certificate);

            let other = Request {
                host: Some("two.example.com"),
                ..request
            };
            let refused = client.request(&other).expect_err("another's certificate");
            assert!(!refused.is_empty());
            let anonymous = Request {
                identity: None,
                ..request
            };
            client.request(&anonymous).expect_err("no certificate");
        }
    }
}
