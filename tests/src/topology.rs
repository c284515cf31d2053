//! Client – router – backends, each in a namespace of its own.
//!
//! ```text
//!            192.168.10.0/24          192.168.2N.0/24
//!   client .2 ────────── .1 router .1 ──────────────── .2 backend N
//!            fd00:10::/64             fd00:2N::/64
//! ```
//!
//! The client reaches the VIPs over the router, which no interface of the router carries: whoever
//! serves them has to claim them. The router does not forward, so bytes cross it only through the
//! process under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::netns::Namespace;

/// The IPv4 address the listeners of the lab are served on.
pub const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(1, 2, 3, 4));
/// The IPv6 address the listeners of the lab are served on.
pub const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x53, 0, 0, 0, 0, 0, 4));
/// The client's IPv4 address.
pub const CLIENT4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 10, 2));

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The lab's VIP of this family.
    pub fn vip(self) -> IpAddr {
        match self {
            Self::V4 => VIP4,
            Self::V6 => VIP6,
        }
    }
}

/// A link to the router, by who is at its other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// The client.
    Client,
    /// This backend.
    Backend(u8),
}

impl Leg {
    /// The number that its subnets have.
    pub fn subnet(self) -> u8 {
        match self {
            Self::Client => 10,
            Self::Backend(n) => 20 + n,
        }
    }

    /// The router's device; the other end's is `eth0`.
    pub fn device(self) -> String {
        match self {
            Self::Client => "client".to_owned(),
            Self::Backend(n) => format!("backend{n}"),
        }
    }
}

/// The namespaces and the links between them.
#[derive(Debug)]
pub struct Topology {
    /// Where clients run.
    pub client: Namespace,
    /// Where the router runs.
    pub router: Namespace,
    /// Where servers run.
    pub backends: Vec<Namespace>,
}

impl Topology {
    /// Builds a client, a router and this many backends (9 at most), with names that start so.
    pub fn new(name: &str, backends: u8) -> Self {
        assert!(backends <= 9, "the address plan has room for 9 backends");
        let create = |role: &str| {
            let ns = Namespace::create(&format!("{name}-{role}"));
            set_up(&ns);
            ns
        };
        let topology = Self {
            client: create("client"),
            router: create("router"),
            backends: (0..backends)
                .map(|n| create(&format!("backend{n}")))
                .collect(),
        };
        topology.link(&topology.client, "client", 10);
        for (n, backend) in (0..).zip(&topology.backends) {
            topology.link(backend, &format!("backend{n}"), 20 + n);
        }
        topology.route_vips(&topology.client, 10);
        topology
    }

    /// An address of a backend.
    pub fn endpoint(&self, backend: u8, family: Family, port: u16) -> SocketAddr {
        let subnet = 20 + backend;
        let ip = match family {
            Family::V4 => format!("192.168.{subnet}.2"),
            Family::V6 => format!("fd00:{subnet}::2"),
        };
        SocketAddr::new(ip.parse().expect("an address"), port)
    }

    /// Has a namespace on this subnet reach the VIPs over the router.
    pub fn route_vips(&self, ns: &Namespace, subnet: u8) {
        ns.batch(&format!(
            "route replace {VIP4}/32 via 192.168.{subnet}.1\n\
             route replace {VIP6}/128 via fd00:{subnet}::1\n"
        ));
    }

    /// Makes another namespace and joins it to the router, where the device has the name of its
    /// role.
    pub fn join(&self, role: &str, subnet: u8) -> Namespace {
        let lab = self.router.name().trim_end_matches("router");
        let ns = Namespace::create(&format!("{lab}{role}"));
        set_up(&ns);
        self.link(&ns, role, subnet);
        ns
    }

    /// Who is at the other end of a link.
    pub fn far(&self, leg: Leg) -> &Namespace {
        match leg {
            Leg::Client => &self.client,
            Leg::Backend(n) => &self.backends[usize::from(n)],
        }
    }

    /// Puts something else in the place of a link. `make` is given the two namespaces and the name
    /// of the router's device, and makes it and `eth0` at the other end.
    pub fn relink<T>(&self, leg: Leg, make: impl FnOnce(&Namespace, &Namespace, &str) -> T) -> T {
        self.unlink(leg);
        self.link_anew(leg, make)
    }

    /// Takes a link away.
    pub fn unlink(&self, leg: Leg) {
        self.far(leg).batch("link del eth0\n");
    }

    /// The second half of [`Topology::relink`].
    pub fn link_anew<T>(
        &self,
        leg: Leg,
        make: impl FnOnce(&Namespace, &Namespace, &str) -> T,
    ) -> T {
        let (far, device, subnet) = (self.far(leg), leg.device(), leg.subnet());
        let made = make(far, &self.router, &device);
        self.address(far, &device, subnet);
        if leg == Leg::Client {
            self.route_vips(far, subnet);
        }
        made
    }

    /// Joins a namespace (address `.2`) to the router (address `.1`) on a subnet.
    pub fn link(&self, far: &Namespace, device: &str, subnet: u8) {
        let peer = self.router.name();
        far.batch(&format!(
            "link add eth0 type veth peer name {device} netns {peer}\n"
        ));
        self.address(far, device, subnet);
    }

    /// Gives the two ends of a link their addresses, and sets them up.
    fn address(&self, far: &Namespace, device: &str, subnet: u8) {
        far.batch(&format!(
            "addr add 192.168.{subnet}.2/24 dev eth0\n\
             addr add fd00:{subnet}::2/64 dev eth0 nodad\n\
             link set eth0 up\n"
        ));
        self.router.batch(&format!(
            "addr add 192.168.{subnet}.1/24 dev {device}\n\
             addr add fd00:{subnet}::1/64 dev {device} nodad\n\
             link set {device} up\n"
        ));
    }
}

/// Makes a namespace behave the same on every machine.
fn set_up(ns: &Namespace) {
    ns.sysctl("ipv4/ip_forward", "0");
    ns.sysctl("ipv6/conf/all/forwarding", "0");
    // No waiting for duplicate address detection of link-local addresses.
    ns.sysctl("ipv6/conf/default/accept_dad", "0");
    // BBR, where the host has it, paces by timers, which makes short transfers over veth slow and
    // uneven. Reno is the one algorithm that the kernel lets every namespace choose.
    ns.sysctl("ipv4/tcp_congestion_control", "reno");
    // The kernel's defaults, whatever the host has: they bound what a stalled stream can hold.
    ns.sysctl("ipv4/tcp_rmem", "4096 131072 6291456");
    ns.sysctl("ipv4/tcp_wmem", "4096 16384 4194304");
}
