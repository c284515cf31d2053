//! The two ways from a client to an endpoint: through the router, and directly, by what the kernel
//! of the router's namespace forwards. What one way does to a stream, the other must do too.

use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::access::Access;
use crate::daemon::{Datapath, Router};
use crate::raw::{accept, hello, read_exactly, write};
use crate::rig::{BACKEND_PORT, HOST, Lab, Pair};
use crate::site::Site;
use crate::topology::Family;
use crate::wait::SOON;

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

/// A lab with one backend, a router with the `tc` datapath, and forwarding in its namespace.
#[derive(Debug)]
pub struct Ways {
    /// The router; declared first, so that it is stopped first.
    pub router: Router,
    /// The endpoint.
    pub endpoint: TcpListener,
    /// What it all runs in.
    pub lab: Lab,
    family: Family,
}

impl Ways {
    /// Starts a router in a lab whose links are as the test wants them.
    #[track_caller]
    pub fn start(lab: Lab, family: Family) -> Self {
        lab.net.router.sysctl("ipv4/ip_forward", "1");
        lab.net.router.sysctl("ipv6/conf/all/forwarding", "1");
        lab.net.client.batch(
            "route add 192.168.20.0/24 via 192.168.10.1\nroute add fd00:20::/64 via fd00:10::1\n",
        );
        lab.net.backends[0].batch(
            "route add 192.168.10.0/24 via 192.168.20.1\nroute add fd00:10::/64 via fd00:20::1\n",
        );
        let at = lab.net.endpoint(0, family, BACKEND_PORT);
        let endpoint = lab.net.backends[0].listen(at);
        let site = Site::new().route(HOST, "one").service("one", [at]);
        site.write_to(&lab.manifests());
        Self {
            router: lab.start(Datapath::Tc, &[]),
            endpoint,
            lab,
            family,
        }
    }

    /// Connects a client.
    #[track_caller]
    pub fn connect(&self, way: Way) -> TcpStream {
        match way {
            Way::Routed => self.lab.connect(self.family),
            Way::Direct => {
                let to = self.endpoint.local_addr().expect("a listening socket");
                let connected = self.lab.net.client.connect(to, SOON);
                connected.unwrap_or_else(|e| panic!("connect to {to}: {e}"))
            }
        }
    }

    /// Opens a connection: the endpoint has received exactly the client's hello, and the client a
    /// first byte from the endpoint.
    #[track_caller]
    pub fn open(&self, way: Way) -> Pair {
        let client = self.connect(way);
        let hello = hello(HOST);
        write(&client, &hello);
        let server = accept(&self.endpoint, SOON);
        assert_eq!(read_exactly(&server, hello.len(), SOON), hello, "the hello");
        write(&server, b"!");
        assert_eq!(read_exactly(&client, 1, SOON), b"!");
        Pair {
            address: client.local_addr().expect("a connected socket"),
            client,
            server,
            up: hello.len() as u64,
            down: 1,
        }
    }

    /// The access record of a connection that `tc` must have carried, unless it may have been
    /// declined for one of these reasons.
    #[track_caller]
    pub fn access(&self, client: SocketAddr, declined: &[&str]) -> Access {
        let access = self.router.log().access_of(client, SOON);
        let is_excused = declined.contains(&access.declined.as_str());
        assert!(is_excused || access.datapath == "tc", "{access:?}");
        access
    }
}
