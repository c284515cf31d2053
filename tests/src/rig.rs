//! A lab with a router in it, as most tests want it.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::access::Access;
use crate::daemon::{Datapath, Launch, Router};
use crate::netns::{Scratch, unique_name};
use crate::raw::{accept, hello, read_exactly, write};
use crate::site::{PORT, Site};
use crate::topology::{Family, Topology};
use crate::wait::SOON;

/// The host that [`Rig`] routes.
pub const HOST: &str = "one.example.com";

/// The port servers of the lab listen on.
pub const BACKEND_PORT: u16 = 8443;

/// Waits until no other test that loads the whole machine runs; others go on beside it.
pub fn alone() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Namespaces and a directory for files; gone on drop.
#[derive(Debug)]
pub struct Lab {
    /// The namespaces.
    pub net: Topology,
    scratch: Scratch,
}

impl Lab {
    /// A client, a router and this many backends.
    pub fn new(backends: u8) -> Self {
        let name = unique_name();
        let scratch = Scratch::create(&name);
        let net = Topology::new(&name, backends);
        Self { net, scratch }
    }

    /// The lab's directory.
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// Where the manifests are.
    pub fn manifests(&self) -> PathBuf {
        self.dir().join("manifests")
    }

    /// Starts a router on the manifests as they are, with the lab's VIPs claimed.
    #[track_caller]
    pub fn start(&self, datapath: Datapath, args: &[&str]) -> Router {
        let fixed = ["--datapath", datapath.name(), "--claim-vips"];
        self.start_with(&[&fixed, args].concat(), &[])
    }

    /// Starts a router with these flags, without these capabilities.
    #[track_caller]
    pub fn start_with(&self, args: &[&str], without: &[&str]) -> Router {
        let (manifests, admin) = (self.manifests(), self.admin());
        // Unless the test is about it, nothing outlives its router.
        let pins: &[&str] = match args.contains(&"--pin-dir") {
            true => &[],
            false => &["--pin-dir", "none"],
        };
        let args = &[args, pins].concat();
        let launch = Launch {
            manifests: Some(&manifests),
            admin: &admin,
            args,
            without,
        };
        Router::start(&self.net.router, &launch)
    }

    /// Starts another router, whose admin API listens there, with these flags.
    #[track_caller]
    pub fn start_at(&self, admin: &str, args: &[&str]) -> Router {
        let launch = Launch {
            manifests: Some(&self.manifests()),
            admin,
            args,
            without: &[],
        };
        Router::start(&self.net.router, &launch)
    }

    /// Where the router's admin API listens, as its flag takes it.
    pub fn admin(&self) -> String {
        self.admin_of("admin")
    }

    /// The same for another router.
    pub fn admin_of(&self, name: &str) -> String {
        format!(
            "unix:{}",
            self.dir().join(name).with_extension("sock").display()
        )
    }

    /// The address of a backend's usual server.
    pub fn endpoint(&self, backend: u8) -> SocketAddr {
        self.net.endpoint(backend, Family::V4, BACKEND_PORT)
    }

    /// Listens at [`Lab::endpoint`].
    pub fn listen(&self, backend: u8) -> TcpListener {
        self.net.backends[usize::from(backend)].listen(self.endpoint(backend))
    }

    /// Connects a client to the listener of the router.
    #[track_caller]
    pub fn connect(&self, family: Family) -> TcpStream {
        let to = SocketAddr::new(family.vip(), PORT);
        let connected = self.net.client.connect(to, SOON);
        connected.unwrap_or_else(|e| panic!("connect to {to}: {e}"))
    }
}

/// A lab with one backend, a router that sends [`HOST`] there, and the listener at its end, for
/// tests that speak raw TCP.
#[derive(Debug)]
pub struct Rig {
    /// The router; declared first, so that it is stopped first.
    pub router: Router,
    /// The endpoint.
    pub endpoint: TcpListener,
    /// What it all runs in.
    pub lab: Lab,
    datapath: Datapath,
}

impl Rig {
    /// Starts it with these flags of the router.
    #[track_caller]
    pub fn start(datapath: Datapath, args: &[&str]) -> Self {
        let lab = Lab::new(1);
        let endpoint = lab.listen(0);
        Self::site(&lab).write_to(&lab.manifests());
        let router = lab.start(datapath, args);
        Self::of(router, endpoint, lab, datapath)
    }

    /// A rig whose parts were made one by one.
    pub fn of(router: Router, endpoint: TcpListener, lab: Lab, datapath: Datapath) -> Self {
        Self {
            router,
            endpoint,
            lab,
            datapath,
        }
    }

    /// The manifests of a rig.
    pub fn site(lab: &Lab) -> Site {
        Site::new()
            .route(HOST, "one")
            .service("one", [lab.endpoint(0)])
    }

    /// Opens a connection through the router: the endpoint has received exactly the client's hello,
    /// and the client a first byte from the endpoint, which it can only have once the datapath has
    /// taken over.
    #[track_caller]
    pub fn open(&self) -> Pair {
        let client = self.lab.connect(Family::V4);
        Pair::greet(client, &hello(HOST), &self.endpoint).answered()
    }

    /// Accepts the next connection at the endpoint; panics when none comes soon.
    #[track_caller]
    pub fn accept(&self) -> TcpStream {
        accept(&self.endpoint, SOON)
    }

    /// Waits for the access record of a connection and checks that the datapath under test
    /// carried it.
    #[track_caller]
    pub fn access(&self, client: SocketAddr) -> Access {
        self.access_unless(client, &[])
    }

    /// The same for a connection that may have been declined for one of these reasons.
    #[track_caller]
    pub fn access_unless(&self, client: SocketAddr, declined: &[&str]) -> Access {
        let access = self.router.log().access_of(client, SOON);
        self.assert_carried(&access, declined);
        access
    }

    /// Checks that the datapath under test carried a connection, or declined it for one of these
    /// reasons.
    #[track_caller]
    pub fn assert_carried(&self, access: &Access, declined: &[&str]) {
        access.assert_carried(self.datapath, declined);
    }
}

/// The two ends of a connection through the router.
#[derive(Debug)]
pub struct Pair {
    /// The client's end.
    pub client: TcpStream,
    /// The endpoint's end.
    pub server: TcpStream,
    /// The client's address.
    pub address: SocketAddr,
    /// Bytes that have gone from the client to the endpoint: the hello.
    pub up: u64,
    /// Bytes that have gone from the endpoint to the client.
    pub down: u64,
}

impl Pair {
    /// A client that sends this hello, and the next connection at the endpoint, which has received
    /// exactly that.
    #[track_caller]
    pub fn greet(client: TcpStream, hello: &[u8], endpoint: &TcpListener) -> Self {
        write(&client, hello);
        let server = accept(endpoint, SOON);
        assert_eq!(read_exactly(&server, hello.len(), SOON), hello, "the hello");
        Self {
            address: client.local_addr().expect("a connected socket"),
            client,
            server,
            up: hello.len() as u64,
            down: 0,
        }
    }

    /// Sends a message each way.
    #[track_caller]
    pub fn exchange(&self) {
        write(&self.client, b"ping");
        assert_eq!(read_exactly(&self.server, 4, SOON), b"ping");
        write(&self.server, b"pong");
        assert_eq!(read_exactly(&self.client, 4, SOON), b"pong");
    }

    /// The same pair, once the client has a first byte from the endpoint.
    #[track_caller]
    pub fn answered(mut self) -> Self {
        write(&self.server, b"!");
        assert_eq!(read_exactly(&self.client, 1, SOON), b"!");
        self.down += 1;
        self
    }
}
