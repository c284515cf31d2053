//! Which server answers for which host, asked by the clients people have.

use std::net::SocketAddr;

use rstest::rstest;
use sni_router_tests::daemon::{Datapath, Router};
use sni_router_tests::rig::{BACKEND_PORT, Lab};
use sni_router_tests::server::Server;
use sni_router_tests::site::{PORT, Site};
use sni_router_tests::tls::client::{Client, Request};
use sni_router_tests::tls::{Answer, POST_QUANTUM, Version, pki, server};
use sni_router_tests::topology::{Family, VIP4, VIP6};
use sni_router_tests::wait::SOON;

/// An exact host, a wildcard, an exact host inside the wildcard and a default, each with a server
/// whose certificate is good for its own names only. `one` is reached over IPv4, `wild` over IPv6.
struct Hosts {
    router: Router,
    _servers: Vec<Server>,
    lab: Lab,
    datapath: Datapath,
}

impl Hosts {
    fn start(datapath: Datapath, options: server::Options) -> Self {
        let lab = Lab::new(2);
        let (vip4, vip6) = (VIP4.to_string(), VIP6.to_string());
        let names: [(&str, &[&str]); 4] = [
            ("one", &["one.example.com"]),
            ("wild", &["*.wild.example.com"]),
            ("exact", &["exact.wild.example.com"]),
            (
                "default",
                &["example.com", "unlisted.example.com", &vip4, &vip6],
            ),
        ];
        let mut site = Site::new()
            .route("one.example.com", "one")
            .route("*.wild.example.com", "wild")
            .route("exact.wild.example.com", "exact")
            .default_backend("default");
        let mut servers = Vec::new();
        for (n, (name, hosts)) in (0..).zip(names) {
            let backend = n % 2;
            let family = if name == "wild" {
                Family::V6
            } else {
                Family::V4
            };
            let at = lab
                .net
                .endpoint(backend, family, BACKEND_PORT + u16::from(n));
            let listener = lab.net.backends[usize::from(backend)].listen(at);
            servers.push(server::spawn(listener, name, &pki::server(hosts), options));
            site = site.service(name, [at]);
        }
        site.write_to(&lab.manifests());
        let router = lab.start(datapath, &[]);
        Self {
            router,
            _servers: servers,
            lab,
            datapath,
        }
    }

    fn request<'a>(&'a self, host: Option<&'a str>) -> Request<'a> {
        Request {
            from: &self.lab.net.client,
            scratch: self.lab.dir(),
            to: SocketAddr::new(VIP4, PORT),
            host,
            version: Version::Tls13,
            alpn: None,
            identity: None,
            post_quantum: false,
        }
    }

    /// Asks, and checks that the access log tells of a connection like this one.
    fn ask(&self, client: Client, request: &Request<'_>) -> Answer {
        let known = self.router.log().access().len();
        let answer = client
            .request(request)
            .unwrap_or_else(|e| panic!("{client:?} {request:?}: {e}"));
        assert_eq!(answer.version, request.version.name());
        assert_eq!(answer.sni, request.host.unwrap_or_default());

        let access = self.router.log().wait_for_nth_access(known, SOON);
        if access.declined == "mixed_families" {
            // `tc` rewrites headers and cannot make one of another size.
            assert_eq!(self.datapath, Datapath::Tc, "{access:?}");
            let endpoint: SocketAddr = access.endpoint.parse().expect("an address");
            assert_ne!(endpoint.is_ipv4(), request.to.is_ipv4(), "{access:?}");
        } else {
            assert_eq!(access.datapath, self.datapath.name(), "{access:?}");
            assert_eq!(access.declined, "", "{access:?}");
        }
        assert_eq!(access.sni, request.host.unwrap_or_default(), "{access:?}");
        assert_eq!(access.vip, request.to.to_string(), "{access:?}");
        assert_eq!(access.listener, "default/web", "{access:?}");
        assert_eq!(access.reason, "done", "{access:?}");
        assert!(access.bytes_up > 0 && access.bytes_down > 0, "{access:?}");
        assert!(
            access
                .backend
                .starts_with(&format!("default/{}", answer.server)),
            "{access:?}"
        );
        answer
    }
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn each_host_is_answered_by_its_own_server(
    #[case] datapath: Datapath,
    #[values(Client::Rustls, Client::OpenSsl, Client::Curl)] client: Client,
) {
    let hosts = Hosts::start(datapath, server::Options::default());
    let expected = [
        (Some("one.example.com"), "one"),
        (Some("a.wild.example.com"), "wild"),
        (Some("exact.wild.example.com"), "exact"),
        (Some("unlisted.example.com"), "default"),
        (None, "default"),
    ];
    for family in Family::ALL {
        for version in Version::ALL {
            for (host, server) in expected {
                let request = Request {
                    to: SocketAddr::new(family.vip(), PORT),
                    version,
                    ..hosts.request(host)
                };
                assert_eq!(hosts.ask(client, &request).server, server, "{request:?}");
            }
        }
    }
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn host_in_capitals_is_the_same_host(#[case] datapath: Datapath) {
    let hosts = Hosts::start(datapath, server::Options::default());
    // curl and rustls send names in lower case; s_client sends what it is given.
    let request = hosts.request(Some("ONE.Example.COM"));
    let answer = Client::OpenSsl.request(&request).expect("an answer");
    assert_eq!(answer.server, "one");
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn post_quantum_handshake_passes(#[case] datapath: Datapath) {
    let options = server::Options {
        post_quantum: true,
        ..server::Options::default()
    };
    let hosts = Hosts::start(datapath, options);
    for family in Family::ALL {
        let request = Request {
            to: SocketAddr::new(family.vip(), PORT),
            post_quantum: true,
            ..hosts.request(Some("one.example.com"))
        };
        let answer = hosts.ask(Client::Rustls, &request);
        assert_eq!(answer.group, POST_QUANTUM);
    }
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn client_certificate_reaches_the_server(
    #[case] datapath: Datapath,
    #[values(Client::Rustls, Client::OpenSsl, Client::Curl)] client: Client,
) {
    let options = server::Options {
        client_certificate: true,
        ..server::Options::default()
    };
    let hosts = Hosts::start(datapath, options);
    let user = pki::client("user");
    for version in Version::ALL {
        let anonymous = Request {
            version,
            ..hosts.request(Some("one.example.com"))
        };
        let request = Request {
            identity: Some(&user),
            ..anonymous
        };
        assert!(hosts.ask(client, &request).client_certificate);
        let known = hosts.router.log().access().len();
        client
            .request(&anonymous)
            .expect_err("the server refuses a client without a certificate");
        // Its record must not be taken for the next one's.
        hosts.router.log().wait_for_nth_access(known, SOON);
    }
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
#[case::tc(Datapath::Tc)]
fn application_protocol_is_agreed_end_to_end(
    #[case] datapath: Datapath,
    #[values(Client::Rustls, Client::OpenSsl)] client: Client,
) {
    let hosts = Hosts::start(datapath, server::Options::default());
    for version in Version::ALL {
        let request = Request {
            version,
            alpn: Some("h2"),
            ..hosts.request(Some("one.example.com"))
        };
        assert_eq!(hosts.ask(client, &request).alpn, "h2");
    }
    let last = hosts.router.log().access().pop().expect("a record");
    assert_eq!(last.alpn, "h2", "{last:?}");
}
