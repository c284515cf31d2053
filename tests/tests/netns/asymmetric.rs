//! Paths that lead by one link to the router and by another one back: of a host with two uplinks, or where a load
//! balancer sends clients' packets by a tunnel. `tc` would send back by the first one.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use rstest::rstest;
use sni_router_tests::access::Access;
use sni_router_tests::daemon::Router;
use sni_router_tests::netns::Namespace;
use sni_router_tests::raw::hello;
use sni_router_tests::rig::{BACKEND_PORT, HOST, Lab, Pair};
use sni_router_tests::site::{PORT, Site};
use sni_router_tests::topology::{Family, Leg};
use sni_router_tests::wait::{SOON, until};
use socket2::{Domain, Socket, Type};

/// A router whose links to one of its peers are two:
///
/// ```text
///        ──── eth0, 192.168.N0.0/24 ────
///   peer                                 router
///        ──── back, 10.9.N0.0/24 ───────
/// ```
pub(super) struct TwoLinks {
    pub(super) router: Router,
    listener: TcpListener,
    pub(super) lab: Lab,
    family: Family,
}

impl TwoLinks {
    /// `set_up` is done before the router starts.
    pub(super) fn start(leg: Leg, family: Family, set_up: impl FnOnce(&Lab)) -> Self {
        Self::start_with(leg, family, &[], set_up)
    }

    /// The same with more flags.
    pub(super) fn start_with(
        leg: Leg,
        family: Family,
        args: &[&str],
        set_up: impl FnOnce(&Lab),
    ) -> Self {
        let lab = Lab::new(1);
        join(&lab, leg);
        set_up(&lab);
        let at = lab.net.endpoint(0, family, BACKEND_PORT);
        let listener = lab.net.backends[0].listen(at);
        Site::new()
            .vip(family.vip())
            .route(HOST, "one")
            .service("one", [at])
            .write_to(&lab.manifests());
        let args = [&["--datapath", "auto", "--claim-vips"], args].concat();
        let router = lab.start_with(&args, &[]);
        Self {
            router,
            listener,
            lab,
            family,
        }
    }

    /// A connection from one of the client's addresses.
    #[track_caller]
    pub(super) fn open(&self, from: IpAddr) -> Pair {
        let to = SocketAddr::new(self.family.vip(), PORT);
        let client = connect(&self.lab.net.client, from, to);
        Pair::greet(client, &hello(HOST), &self.listener).answered()
    }

    /// The same with a message each way, and its record.
    #[track_caller]
    fn serve_one(&self, from: IpAddr) -> Access {
        let pair = self.open(from);
        pair.exchange();
        let address = pair.address;
        drop(pair);
        self.router.log().access_of(address, SOON)
    }

    #[track_caller]
    fn assert_carried(&self, from: IpAddr) {
        let access = self.serve_one(from);
        assert_eq!(
            (&*access.datapath, &*access.declined),
            ("tc", ""),
            "{access:?}"
        );
    }

    #[track_caller]
    fn assert_declined(&self, from: IpAddr) {
        let access = self.serve_one(from);
        assert_eq!(
            (&*access.datapath, &*access.declined, &*access.reason),
            ("userspace", "asymmetric_path", "done"),
            "{access:?}"
        );
    }

    fn declined(&self) -> f64 {
        let labels = [("reason", "asymmetric_path")];
        self.router
            .metric("sni_router_datapath_declines_total", &labels)
    }

    /// Packets that the program has taken for the router.
    fn taken(&self) -> f64 {
        let labels = [("program", "tc"), ("event", "taken")];
        self.router
            .metric("sni_router_kernel_events_total", &labels)
    }
}

/// Joins a peer to the router by a second link.
fn join(lab: &Lab, leg: Leg) {
    let (far, router) = (lab.net.far(leg), &lab.net.router);
    let (device, subnet) = (leg.device(), leg.subnet());
    far.batch(&format!(
        "link add back type veth peer name {device}back netns {}\n",
        router.name()
    ));
    for (ns, device, own) in [(far, "back", 2), (router, &*format!("{device}back"), 1)] {
        ns.batch(&format!(
            "addr add 10.9.{subnet}.{own}/24 dev {device}\n\
             addr add fd09:{subnet}::{own}/64 dev {device} nodad\n\
             link set {device} up\n"
        ));
    }
    let usual = leg.device();
    for (ns, devices) in [
        (far, ["eth0", "back"]),
        (router, [&*usual, &*format!("{device}back")]),
    ] {
        for device in [&["all"], devices.as_slice()].concat() {
            ns.sysctl(&format!("ipv4/conf/{device}/rp_filter"), "0");
        }
    }
}

/// Whatever TCP comes to an address of the namespace by this link is lost.
pub(super) fn lose(ns: &Namespace, device: &str, address: IpAddr) {
    let family = if address.is_ipv4() { "ip" } else { "ip6" };
    let rules = format!(
        "add table inet lost; \
         add chain inet lost input {{ type filter hook input priority -300; }}; \
         add rule inet lost input iifname {device} {family} daddr {address} meta l4proto tcp drop"
    );
    ns.output("nft", &[&rules]);
}

/// What the router sends to a peer's address leaves by the second link.
pub(super) fn send_by_back(lab: &Lab, leg: Leg, to: IpAddr) {
    let (device, subnet) = (leg.device(), leg.subnet());
    let (gateway, own) = match to {
        IpAddr::V4(_) => (format!("10.9.{subnet}.2"), format!("192.168.{subnet}.1")),
        IpAddr::V6(_) => (format!("fd09:{subnet}::2"), format!("fd00:{subnet}::1")),
    };
    lab.net.router.batch(&format!(
        "route add {to} via {gateway} dev {device}back src {own}\n"
    ));
}

/// An address of a peer.
pub(super) fn address(leg: Leg, family: Family, host: u8) -> IpAddr {
    let subnet = leg.subnet();
    let address = match family {
        Family::V4 => format!("192.168.{subnet}.{host}"),
        Family::V6 => format!("fd00:{subnet}::{host:x}"),
    };
    address.parse().expect("an address")
}

/// Gives a client more addresses.
fn widen(client: &Namespace, family: Family, hosts: impl Iterator<Item = u8>) {
    let added = hosts.map(|host| {
        let address = address(Leg::Client, family, host);
        match family {
            Family::V4 => format!("addr add {address}/24 dev eth0\n"),
            Family::V6 => format!("addr add {address}/64 dev eth0 nodad\n"),
        }
    });
    client.batch(&added.collect::<String>());
}

#[track_caller]
fn connect(ns: &Namespace, from: IpAddr, to: SocketAddr) -> TcpStream {
    let connected = ns.run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.connect_timeout(&to.into(), SOON)?;
        socket.set_tcp_nodelay(true)?;
        std::io::Result::Ok(TcpStream::from(socket))
    });
    connected.unwrap_or_else(|e| panic!("connect from {from} to {to}: {e}"))
}

#[rstest]
#[case::of_clients(Leg::Client)]
#[case::of_endpoints(Leg::Backend(0))]
fn connection_whose_way_back_is_another_is_declined_and_works(
    #[case] leg: Leg,
    #[values(Family::V4, Family::V6)] family: Family,
) {
    let peer = address(leg, family, 2);
    let net = TwoLinks::start(leg, family, |lab| {
        lose(lab.net.far(leg), "eth0", peer);
        send_by_back(lab, leg, peer);
    });
    let client = address(Leg::Client, family, 2);
    for _ in 0..3 {
        net.assert_declined(client);
    }
    assert_eq!(net.declined(), 3.0);
    assert_eq!(net.taken(), 0.0, "nobody has shown that it can be");
}

/// Others have shown by the same interface that clients can be taken.
#[rstest]
fn client_whose_way_back_is_another_gets_a_socket_after_all(
    #[values(Family::V4, Family::V6)] family: Family,
) {
    let (usual, other) = (
        address(Leg::Client, family, 2),
        address(Leg::Client, family, 3),
    );
    let net = TwoLinks::start(Leg::Client, family, |lab| {
        widen(&lab.net.client, family, 3..=3);
        lose(&lab.net.client, "eth0", other);
        send_by_back(lab, Leg::Client, other);
    });
    until("the client was taken", SOON, || {
        net.assert_carried(usual);
        let before = net.taken();
        net.assert_declined(other);
        net.taken() > before
    });
}

/// It is the endpoint that has begun to answer by the other link.
#[test]
fn endpoint_that_answers_by_another_link_than_the_routes_is_connected_to_by_a_socket() {
    let leg = Leg::Backend(0);
    let endpoint = address(leg, Family::V4, 2);
    let net = TwoLinks::start(leg, Family::V4, |lab| {
        lose(lab.net.far(leg), "back", endpoint);
    });
    let client = address(Leg::Client, Family::V4, 2);
    let far = net.lab.net.far(leg);
    let other = "192.168.20.1/32 via 10.9.20.1 dev back src 192.168.20.2";
    until("the client was taken", SOON, || {
        net.assert_carried(client);
        let before = net.taken();
        far.batch(&format!("route add {other}\n"));
        net.assert_declined(client);
        far.batch(&format!("route del {other}\n"));
        net.taken() > before
    });
}

/// IPv4 takes the one by the interface that it is told; IPv6 would ask that link for a gateway of the other one.
#[rstest]
fn route_with_several_next_hops_leads_by_each_of_them_in_ipv4(
    #[values(Family::V4, Family::V6)] family: Family,
) {
    let hosts = 65..81;
    let net = TwoLinks::start(Leg::Client, family, |lab| {
        widen(&lab.net.client, family, hosts.clone());
        let (to, gateways) = match family {
            Family::V4 => ("192.168.10.64/26", ["192.168.10.2", "10.9.10.2"]),
            Family::V6 => ("fd00:10::40/122", ["fd00:10::2", "fd09:10::2"]),
        };
        let [front, back] = gateways;
        lab.net.router.batch(&format!(
            "route add {to} nexthop via {front} dev client nexthop via {back} dev clientback\n"
        ));
    });
    for host in hosts {
        let client = address(Leg::Client, family, host);
        match family {
            Family::V4 => net.assert_carried(client),
            Family::V6 => net.assert_declined(client),
        }
    }
}
