//! A real Kubernetes control plane: kube-apiserver and etcd, started for a test and gone with it.
//!
//! There is no scheduler, no controller and no node: a test writes the EndpointSlices itself. What is
//! there is the real thing: TLS, RBAC, service account tokens, admission, validation, watches.
//!
//! - [`assets`] says where the binaries are; `cargo xtask test-cluster` builds them.
//! - [`place`] is the network namespace that all of it runs in, and the runtime of its clients.
//! - [`etcd`] and [`api_server`] are the two processes, [`pki`] the keys that they know each other by.
//! - [`access`] is how one gets in: as administrator, or as a ServiceAccount.
//! - [`objects`] applies manifests, for good or only to hear what the server says of them.
//! - [`applications`] fills it.
//! - [`render`] is kustomize and helm.

pub mod access;
pub mod api_server;
pub mod applications;
pub mod assets;
pub mod etcd;
pub mod objects;
pub mod pki;
pub mod place;
pub mod process;
pub mod render;

use std::path::Path;
use std::thread;

use kube::Client;

use self::api_server::ApiServer;
use self::etcd::Etcd;
use self::pki::Pki;
use self::place::Place;
use crate::netns::{Namespace, Scratch, unique_name};

/// A running control plane; its processes, files and namespace are gone when it is dropped.
pub struct ControlPlane {
    api_server: ApiServer,
    etcd: Etcd,
    pki: Pki,
    place: Place,
    client: Client,
    scratch: Scratch,
}

impl ControlPlane {
    /// Starts one in a namespace of its own, and waits until it is ready: some seconds.
    #[track_caller]
    pub fn start() -> Self {
        let name = unique_name();
        let own = Namespace::create(&format!("{name}-control"));
        Self::start_at(Place::own(own), &name)
    }

    /// Starts one on the loopback interface of a namespace, where a router can reach it. Any number
    /// may be in one.
    #[track_caller]
    pub fn start_in(ns: &Namespace) -> Self {
        Self::start_at(Place::within(ns), &unique_name())
    }

    #[track_caller]
    fn start_at(place: Place, name: &str) -> Self {
        let scratch = Scratch::create(&format!("{name}-control"));
        let pki = Pki::create(scratch.path());
        let etcd = Etcd::start(&place, scratch.path());
        let api_server = ApiServer::start(&place, &pki, &etcd, scratch.path());
        let client = access::admin(&place, &pki, &api_server, scratch.path());
        let mut this = Self {
            api_server,
            etcd,
            pki,
            place,
            client,
            scratch,
        };
        this.wait_ready();
        this
    }

    /// The administrator's client. It works in futures that [`Self::run`] runs, since its sockets
    /// belong to the control plane's namespace.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Runs a future inside the namespace, and gives what it gives; a panic in it goes on here.
    #[track_caller]
    pub fn run<F>(&self, future: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.place.run(future)
    }

    /// The directory of its files; a test may put more there.
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// Where the API is, from inside the namespace: `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        self.api_server.url()
    }

    /// Kills the API server, as by a power cut; etcd keeps what it has.
    pub fn kill(&mut self) {
        self.api_server.kill();
    }

    /// Starts the API server again, at the same address, and waits until it is ready.
    #[track_caller]
    pub fn restart(&mut self) {
        self.restart_with(&[]);
    }

    /// The same with more flags, as `--watch-cache=false`, which has every watch ask etcd.
    #[track_caller]
    pub fn restart_with(&mut self, flags: &[&str]) {
        self.kill();
        self.api_server
            .launch(&self.place, &self.pki, &self.etcd, flags);
        self.wait_ready();
    }

    /// Throws away all of etcd's history: who asks for it hears 410 Gone. The API server's own cache
    /// remembers what it has seen, so restart it for that.
    #[track_caller]
    pub fn compact(&self) {
        self.etcd.compact(&self.place);
    }

    #[track_caller]
    fn wait_ready(&mut self) {
        let client = self.client();
        self.api_server.wait_ready(&self.place, &client);
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log of kube-apiserver ---\n{}", self.api_server.log());
        }
    }
}
