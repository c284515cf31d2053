//! What an operator sees and does: the commands that ask a running router.

mod connections;
mod denied;
mod drain;
mod lists;
mod trace;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};

use serde_json::Value;
use sni_router_tests::daemon::{Datapath, Router, binary};
use sni_router_tests::raw::{End, accept, hello, read_exactly, read_to_end, write};
use sni_router_tests::rig::{HOST, Lab, Pair};
use sni_router_tests::site::{PORT, Site};
use sni_router_tests::topology::{Family, VIP4};
use sni_router_tests::wait::{SOON, until};

/// A host on two endpoints, in turns.
pub struct Two {
    _router: Router,
    endpoints: [TcpListener; 2],
    pub lab: Lab,
}

impl Two {
    pub fn start(datapath: Datapath) -> Self {
        let lab = Lab::new(2);
        let endpoints = [lab.listen(0), lab.listen(1)];
        Site::new()
            .route(HOST, "one")
            .service("one", [lab.endpoint(0), lab.endpoint(1)])
            .write_to(&lab.manifests());
        Self {
            _router: lab.start(datapath, &[]),
            endpoints,
            lab,
        }
    }

    /// Opens a connection, to whichever endpoint gets it.
    pub fn open(&self) -> Pair {
        let client = self.lab.connect(Family::V4);
        let hello = hello(HOST);
        write(&client, &hello);
        let address = client.local_addr().expect("a connected socket");
        let mut endpoint = None;
        until("an endpoint is connected to", SOON, || {
            let client = ["--client", &address.to_string()].map(str::to_owned);
            let client = client.each_ref().map(String::as_str);
            let found = connections(&self.lab, &client);
            let at = found.first().and_then(|it| it["endpoint"].as_str());
            endpoint = at.and_then(|at| at.parse::<SocketAddr>().ok());
            endpoint.is_some()
        });
        let index = usize::from(endpoint == Some(self.lab.endpoint(1)));
        let server = accept(&self.endpoints[index], SOON);
        assert_eq!(read_exactly(&server, hello.len(), SOON), hello);
        let pair = Pair {
            client,
            server,
            address,
            up: hello.len() as u64,
            down: 0,
        };
        pair.answered()
    }

    /// The endpoint that has a connection.
    pub fn endpoint_of(&self, pair: &Pair) -> String {
        let at = pair.server.local_addr().expect("a connected socket");
        at.to_string()
    }
}

/// Connects, and sees a RST: at once, or when there is something to read.
pub fn assert_refused(lab: &Lab) {
    match lab.net.client.connect((VIP4, PORT).into(), SOON) {
        Ok(client) => assert_eq!(read_to_end(&client, SOON).1, End::Reset),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

/// Runs a command against the router of a lab.
pub fn operate(lab: &Lab, args: &[&str]) -> Output {
    let (verb, flags) = args.split_first().expect("a verb");
    let mut command = Command::new(binary());
    command
        .arg(verb)
        .args(["--admin", &lab.admin()])
        .args(flags);
    command.output().expect("run sni-router")
}

pub fn connections(lab: &Lab, flags: &[&str]) -> Vec<Value> {
    let output = operate(lab, &[&["connections", "--json"], flags].concat());
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

pub fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8(both).expect("text")
}
