//! The two ways from a client to an endpoint: through the router, and directly, by what the kernel
//! of the router's namespace forwards. What one way does to a stream, the other must do too.

use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::access::Access;
use crate::daemon::{Datapath, Router};
use crate::raw::{accept, hello};
use crate::rig::{BACKEND_PORT, Lab, Pair};
use crate::site::Site;
use crate::topology::Family;
use crate::wait::SOON;

/// The host whose endpoint speaks this family.
pub fn host(family: Family) -> &'static str {
    match family {
        Family::V4 => "four.example.com",
        Family::V6 => "six.example.com",
    }
}

/// How a client reaches the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By its own address.
    Direct,
    /// By the VIP.
    Routed,
}

impl Way {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Direct, Self::Routed];
}

/// A lab with one backend, a router with the `tc` datapath, and forwarding in its namespace. Client
/// and endpoint speak the same family.
#[derive(Debug)]
pub struct Ways {
    /// The router; declared first, so that it is stopped first.
    pub router: Router,
    /// What it all runs in.
    pub lab: Lab,
    /// One for each of [`Family::ALL`].
    endpoints: [TcpListener; 2],
}

impl Ways {
    /// Starts a router in a lab whose links are as the test wants them.
    #[track_caller]
    pub fn start(lab: Lab) -> Self {
        lab.net.router.sysctl("ipv4/ip_forward", "1");
        lab.net.router.sysctl("ipv6/conf/all/forwarding", "1");
        lab.net.client.batch(
            "route add 192.168.20.0/24 via 192.168.10.1\nroute add fd00:20::/64 via fd00:10::1\n",
        );
        lab.net.backends[0].batch(
            "route add 192.168.10.0/24 via 192.168.20.1\nroute add fd00:10::/64 via fd00:20::1\n",
        );
        let addresses = Family::ALL.map(|family| lab.net.endpoint(0, family, BACKEND_PORT));
        let endpoints = addresses.map(|at| lab.net.backends[0].listen(at));
        let [v4, v6] = addresses;
        Site::new()
            .route(host(Family::V4), "four")
            .service("four", [v4])
            .route(host(Family::V6), "six")
            .service("six", [v6])
            .write_to(&lab.manifests());
        Self {
            // Long limits: packets are lost on some of the wires, those of handshakes too.
            router: lab.start(
                Datapath::Tc,
                &["--hello-timeout", "60s", "--connect-timeout", "60s"],
            ),
            lab,
            endpoints,
        }
    }

    /// Connects a client.
    #[track_caller]
    pub fn connect(&self, way: Way, family: Family) -> TcpStream {
        match way {
            Way::Routed => self.lab.connect(family),
            Way::Direct => {
                let to = self.lab.net.endpoint(0, family, BACKEND_PORT);
                let connected = self.lab.net.client.connect(to, SOON);
                connected.unwrap_or_else(|e| panic!("connect to {to}: {e}"))
            }
        }
    }

    /// The endpoint's listener.
    pub fn endpoint(&self, family: Family) -> TcpListener {
        let endpoint = &self.endpoints[family as usize];
        endpoint.try_clone().expect("clone a socket")
    }

    /// Accepts the next connection at the endpoint; panics when none comes soon.
    #[track_caller]
    pub fn accept(&self, family: Family) -> TcpStream {
        accept(&self.endpoints[family as usize], SOON)
    }

    /// Opens a connection: the endpoint has received exactly the client's hello, and the client a
    /// first byte from the endpoint.
    #[track_caller]
    pub fn open(&self, way: Way, family: Family) -> Pair {
        let client = self.connect(way, family);
        let endpoint = &self.endpoints[family as usize];
        Pair::greet(client, &hello(host(family)), endpoint).answered()
    }

    /// The access record of a connection that `tc` must have carried, unless it may have been
    /// declined for one of these reasons.
    #[track_caller]
    pub fn access(&self, client: SocketAddr, declined: &[&str]) -> Access {
        let access = self.router.log().access_of(client, SOON);
        access.assert_carried(Datapath::Tc, declined);
        access
    }
}
