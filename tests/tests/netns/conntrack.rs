//! On a host that tracks connections: what becomes of the entries.

use std::net::{Shutdown, SocketAddr, TcpListener};
use std::time::Duration;

use rstest::rstest;
use sni_router_tests::daemon::{Datapath, Router};
use sni_router_tests::netns::Namespace;
use sni_router_tests::raw::{
    End, accept, hello, read_exactly, read_to_end, reset, try_accept, write,
};
use sni_router_tests::rig::{BACKEND_PORT, Lab, Pair};
use sni_router_tests::site::Site;
use sni_router_tests::topology::Family;
use sni_router_tests::wait::{SOON, until};

/// A firewall as hosts have it: what was not asked for comes in by one port only, and what a packet
/// belongs to is known by tracking connections.
const FIREWALL: &str = "
    table inet firewall {
        chain input {
            type filter hook input priority filter; policy drop;
            ct state established,related accept
            iif lo accept
            meta l4proto { icmp, ipv6-icmp } accept
            tcp dport 443 accept
        }
    }";

/// Connections of each family.
const EACH: usize = 160;

/// A lab whose router tracks connections, with an endpoint of each family.
struct Tracked {
    router: Router,
    endpoints: [TcpListener; 2],
    lab: Lab,
    datapath: Datapath,
}

impl Tracked {
    fn start(datapath: Datapath, args: &[&str]) -> Self {
        let lab = Lab::new(1);
        lab.net.router.output("nft", &[FIREWALL]);
        let addresses = Family::ALL.map(|family| lab.net.endpoint(0, family, BACKEND_PORT));
        let mut site = Site::new();
        for (family, address) in Family::ALL.into_iter().zip(addresses) {
            let service = format!("{family:?}").to_lowercase();
            site = site
                .route(host(family), &service)
                .service(&service, [address]);
        }
        site.write_to(&lab.manifests());
        Self {
            router: lab.start(datapath, args),
            endpoints: addresses.map(|address| lab.net.backends[0].listen(address)),
            lab,
            datapath,
        }
    }

    /// Opens a connection that the datapath has taken over.
    fn open(&self, family: Family) -> Pair {
        let endpoint = &self.endpoints[family as usize];
        Pair::greet(self.lab.connect(family), &hello(host(family)), endpoint).answered()
    }

    /// Entries of connections to the listener and to the endpoints.
    fn entries(&self) -> Vec<String> {
        entries(&self.lab.net.router, &["dport=443 ", "dport=8443 "])
    }

    /// Checks who carried a connection, and how it ended.
    fn check(&self, address: SocketAddr, reason: &str) {
        let access = self.router.log().access_of(address, SOON);
        assert_eq!(access.datapath, self.datapath.name(), "{access:?}");
        assert_eq!(access.reason, reason, "{access:?}");
    }
}

fn host(family: Family) -> &'static str {
    match family {
        Family::V4 => "four.example.com",
        Family::V6 => "six.example.com",
    }
}

/// The tracked connections whose original direction has one of these.
fn entries(ns: &Namespace, having: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for family in ["ipv4", "ipv6"] {
        let listed = ns.output("conntrack", &["-L", "-f", family, "-p", "tcp"]);
        let lines = listed.lines().map(str::to_owned);
        found.extend(lines.filter(|line| {
            // The reply direction has the ports the other way round.
            let original = line.split("src=").nth(1).unwrap_or_default();
            having.iter().any(|it| original.contains(it))
        }));
    }
    found
}

/// Ends a connection in one of four ways, and gives what the access log shall say of it.
fn end(open: Pair, way: usize) -> &'static str {
    let Pair { client, server, .. } = open;
    match way % 4 {
        0 => {
            client.shutdown(Shutdown::Write).expect("shutdown");
            assert_eq!(read_to_end(&server, SOON), (Vec::new(), End::Fin));
            write(&server, b"more");
            drop(server);
            assert_eq!(read_to_end(&client, SOON), (b"more".to_vec(), End::Fin));
            "done"
        }
        1 => {
            server.shutdown(Shutdown::Write).expect("shutdown");
            assert_eq!(read_to_end(&client, SOON), (Vec::new(), End::Fin));
            drop(client);
            assert_eq!(read_to_end(&server, SOON), (Vec::new(), End::Fin));
            "done"
        }
        2 => {
            reset(client);
            assert_eq!(read_to_end(&server, SOON), (Vec::new(), End::Reset));
            "client_reset"
        }
        _ => {
            reset(server);
            assert_eq!(read_to_end(&client, SOON), (Vec::new(), End::Reset));
            "endpoint_reset"
        }
    }
}

#[test]
fn connections_without_sockets_leave_no_entry_and_others_keep_theirs() {
    let tracked = Tracked::start(Datapath::Tc, &[]);
    // The host's own connections to the same endpoints.
    let own: Vec<_> = Family::ALL
        .into_iter()
        .map(|family| {
            let to = tracked.lab.net.endpoint(0, family, BACKEND_PORT);
            let own = tracked.lab.net.router.connect(to, SOON).expect("connect");
            (own, accept(&tracked.endpoints[family as usize], SOON))
        })
        .collect();
    assert_eq!(
        tracked.entries().len(),
        own.len(),
        "{:#?}",
        tracked.entries()
    );

    let mut opened = Vec::new();
    for _ in 0..EACH {
        opened.extend(Family::ALL.map(|family| tracked.open(family)));
    }
    let only_own = || tracked.entries().len() == own.len();
    until("running connections have no entry", SOON, only_own);

    for (way, open) in opened.into_iter().enumerate() {
        let address = open.address;
        let reason = end(open, way);
        tracked.check(address, reason);
    }
    let left = tracked.entries();
    assert_eq!(left.len(), own.len(), "{left:#?}");
    for (client, server) in &own {
        write(client, b"ping");
        assert_eq!(read_exactly(server, 4, SOON), b"ping");
        let port = format!("sport={} ", client.local_addr().expect("a socket").port());
        let entry = left.iter().find(|entry| entry.contains(&port));
        assert!(
            entry.is_some_and(|it| it.contains("ESTABLISHED")),
            "{left:#?}"
        );
    }
}

/// The router ends them itself, and sends a RST each way.
#[test]
fn connections_without_sockets_that_are_idle_too_long_leave_no_established_entry() {
    let tracked = Tracked::start(Datapath::Tc, &["--idle-timeout", "1s"]);
    let opened: Vec<_> = Family::ALL.map(|family| tracked.open(family)).into();
    for open in &opened {
        for end in [&open.client, &open.server] {
            assert_eq!(read_to_end(end, SOON), (Vec::new(), End::Reset));
        }
        tracked.check(open.address, "idle_timeout");
    }
    let left = tracked.entries();
    assert!(
        !left.iter().any(|it| it.contains("ESTABLISHED")),
        "{left:#?}"
    );
}

/// Ends that come while the connection is being handed over, or before.
#[test]
fn connections_that_are_reset_at_once_leave_no_established_entry() {
    let tracked = Tracked::start(Datapath::Tc, &[]);
    for round in 0..EACH {
        let family = Family::ALL[round % 2];
        let client = tracked.lab.connect(family);
        let address = client.local_addr().expect("a connected socket");
        write(&client, &hello(host(family)));
        match round / 2 % 3 {
            0 => reset(client),
            1 => {
                let _server = accept(&tracked.endpoints[family as usize], SOON);
                reset(client);
            }
            _ => {
                reset(accept(&tracked.endpoints[family as usize], SOON));
                read_to_end(&client, SOON);
            }
        }
        tracked.router.log().access_of(address, SOON);
        while try_accept(&tracked.endpoints[family as usize], Duration::ZERO).is_some() {}
    }
    until("no entry is of a running connection", SOON, || {
        !tracked
            .entries()
            .iter()
            .any(|it| it.contains("ESTABLISHED"))
    });
}

#[rstest]
#[case::userspace(Datapath::Userspace)]
#[case::sockmap(Datapath::Sockmap)]
fn connections_with_sockets_are_tracked_to_their_end(#[case] datapath: Datapath) {
    let tracked = Tracked::start(datapath, &[]);
    let opened: Vec<_> = (0..4)
        .flat_map(|_| Family::ALL.map(|family| tracked.open(family)))
        .collect();
    let both_sides = 2 * opened.len();
    let entries = tracked.entries();
    assert_eq!(entries.len(), both_sides, "{entries:#?}");
    assert!(
        entries.iter().all(|it| it.contains("ESTABLISHED")),
        "{entries:#?}"
    );
    for (way, open) in opened.into_iter().enumerate() {
        let address = open.address;
        let reason = end(open, way);
        tracked.check(address, reason);
    }
    until("no entry is of a running connection", SOON, || {
        !tracked
            .entries()
            .iter()
            .any(|it| it.contains("ESTABLISHED"))
    });
}

/// Only a rule that asks for it has the kernel track connections in a namespace.
#[test]
fn router_does_not_have_the_kernel_track_connections() {
    let lab = Lab::new(1);
    let endpoint = lab.net.endpoint(0, Family::V4, BACKEND_PORT);
    Site::new()
        .route(host(Family::V4), "v4")
        .service("v4", [endpoint])
        .write_to(&lab.manifests());
    let tracked = Tracked {
        router: lab.start(Datapath::Tc, &[]),
        endpoints: Family::ALL.map(|family| {
            let at = lab.net.endpoint(0, family, BACKEND_PORT);
            lab.net.backends[0].listen(at)
        }),
        lab,
        datapath: Datapath::Tc,
    };
    let open = tracked.open(Family::V4);
    assert_eq!(tracked.entries(), Vec::<String>::new());
    let address = open.address;
    let reason = end(open, 0);
    tracked.check(address, reason);
    let router = &tracked.lab.net.router;
    assert_eq!(router.read_sysctl("netfilter/nf_conntrack_count"), "0");
}
