//! A lab whose router reads a Kubernetes API in its own namespace.

use std::net::SocketAddr;

use serde_json::{Value, json};
use sni_router_tests::cluster::ControlPlane;
use sni_router_tests::cluster::objects::{DryRun, name};
use sni_router_tests::daemon::{Launch, Router};
use sni_router_tests::rig::Lab;
use sni_router_tests::server::Server;
use sni_router_tests::site::{PORT, Site};
use sni_router_tests::tls::client::{Client, Request};
use sni_router_tests::tls::{Answer, Version, pki, server};
use sni_router_tests::topology::VIP4;
use sni_router_tests::wait::{SOON, until};

use crate::manifests::crd;

/// Client, router and backends, and the control plane that the router reads.
pub struct Town {
    pub control: ControlPlane,
    pub lab: Lab,
}

impl Town {
    /// With so many backends, and the type Listener.
    #[track_caller]
    pub fn new(backends: u8) -> Self {
        let lab = Lab::new(backends);
        let control = ControlPlane::start_in(&lab.net.router);
        control.apply(&crd());
        Self { control, lab }
    }

    /// Stores every object of a site.
    #[track_caller]
    pub fn store(&self, site: &Site) {
        site.objects().iter().for_each(|object| self.put(object));
    }

    /// Stores an object.
    #[track_caller]
    pub fn put(&self, object: &Value) {
        let stored = self.control.send(object, DryRun::No);
        stored.unwrap_or_else(|e| panic!("{}: {e}", name(object)));
    }

    /// Deletes the object at a path.
    #[track_caller]
    pub fn delete(&self, path: &str) {
        let client = self.control.client();
        let request = http::Request::delete(path).body(Vec::new());
        let request = request.expect("a request");
        let answer = self
            .control
            .run(async move { client.request::<Value>(request).await });
        answer.unwrap_or_else(|e| panic!("delete {path}: {e}"));
    }

    /// Starts a router that reads the API, and waits until it is ready.
    #[track_caller]
    pub fn start(&self, args: &[&str]) -> Router {
        self.run(args, Router::start)
    }

    /// Starts a router without waiting for it.
    #[track_caller]
    pub fn launch(&self, args: &[&str]) -> Router {
        self.run(args, Router::launch)
    }

    #[track_caller]
    fn run(
        &self,
        args: &[&str],
        start: fn(&sni_router_tests::netns::Namespace, &Launch<'_>) -> Router,
    ) -> Router {
        let kubeconfig = self.control.kubeconfig().display().to_string();
        let cache = self.cache_dir();
        let names_one = |arg: &&str| ["--cluster", "--kubeconfig"].contains(arg);
        let named: &[&str] = match args.iter().any(names_one) {
            true => &[],
            false => &["--kubeconfig", &kubeconfig],
        };
        let fixed = [
            "--kubernetes",
            "--cache-dir",
            &cache,
            "--datapath",
            "userspace",
            "--claim-vips",
            "--pin-dir",
            "none",
        ];
        let admin = self.lab.admin_of(match args.contains(&"--workers") {
            true => "second",
            false => "admin",
        });
        let launch = Launch {
            manifests: None,
            admin: &admin,
            args: &[&fixed, named, args].concat(),
            without: &[],
        };
        start(&self.lab.net.router, &launch)
    }

    /// Where routers keep what they know.
    pub fn cache_dir(&self) -> String {
        self.lab.dir().join("cache").display().to_string()
    }

    /// A TLS server for a host at a backend, which says its name.
    pub fn serve(&self, backend: u8, host: &str) -> Server {
        let listener = self.lab.listen(backend);
        let name = format!("backend-{backend}");
        server::spawn(
            listener,
            &name,
            &pki::server(&[host]),
            server::Options::default(),
        )
    }

    /// Asks the VIP for a host by TLS.
    pub fn ask(&self, host: &str) -> Result<Answer, String> {
        Client::Rustls.request(&Request {
            from: &self.lab.net.client,
            scratch: self.lab.dir(),
            to: SocketAddr::new(VIP4, PORT),
            host: Some(host),
            version: Version::Tls13,
            alpn: None,
            identity: None,
            post_quantum: false,
        })
    }

    /// Waits until a backend answers for a host.
    #[track_caller]
    pub fn wait_served(&self, host: &str, backend: u8) {
        let name = format!("backend-{backend}");
        until(&format!("{host} is served by {name}"), SOON, || {
            self.ask(host).is_ok_and(|answer| answer.server == name)
        });
    }

    /// Waits until nobody answers for a host.
    #[track_caller]
    pub fn wait_refused(&self, host: &str) {
        until(&format!("{host} is not served"), SOON, || {
            self.ask(host).is_err()
        });
    }
}

/// A Listener and an Ingress of the class that everything of a site is put into.
pub fn ingress_class() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {
            "name": "sni-router",
            "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"},
        },
        "spec": {"controller": "sni-router.io/ingress-controller"},
    })
}
