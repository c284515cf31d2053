//! The Kubernetes manifests a router is started on.

mod volume;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::tls::pki;
use crate::topology::{VIP4, VIP6};

pub use volume::KubernetesVolume;

/// The port every listener of the lab is served on.
pub const PORT: u16 = 443;

/// A Listener on the lab's two VIPs and the objects that give it routes, all in `default`.
///
/// Written out it is one file an object, as people keep them: JSON, which is also YAML.
#[derive(Clone, Debug)]
pub struct Site {
    listener: Value,
    rules: Vec<Value>,
    default_backend: Option<Value>,
    services: Vec<(String, Vec<SocketAddr>)>,
    annotations: Vec<(String, String)>,
}

impl Site {
    /// A Listener `web` for both VIPs that has no routes yet.
    pub fn new() -> Self {
        Self {
            listener: json!({
                "vip": VIP4.to_string(),
                "secondaryVips": [VIP6.to_string()],
                "port": PORT,
                "protocol": "https",
                "passthrough": true,
                "certificates": [{ "secret": { "name": "front" } }],
            }),
            rules: Vec::new(),
            default_backend: None,
            services: Vec::new(),
            annotations: Vec::new(),
        }
    }

    /// Serves the Listener on one address only.
    pub fn vip(mut self, vip: IpAddr) -> Self {
        self.listener["vip"] = json!(vip.to_string());
        if let Some(spec) = self.listener.as_object_mut() {
            spec.remove("secondaryVips");
        }
        self
    }

    /// Shares the Listener with other clusters.
    pub fn multicluster(mut self) -> Self {
        self.listener["multicluster"] = json!(true);
        self
    }

    /// Whether the Listener passes TLS through; it does unless told otherwise.
    pub fn passthrough(mut self, on: bool) -> Self {
        self.listener["passthrough"] = json!(on);
        self
    }

    /// Sends a host, or a `*.suffix`, to a service.
    pub fn route(mut self, host: &str, service: &str) -> Self {
        self.rules.push(json!({
            "host": host,
            "http": { "paths": [{ "path": "/", "pathType": "Prefix", "backend": backend(service) }] },
        }));
        self
    }

    /// Sends what no host takes to a service.
    pub fn default_backend(mut self, service: &str) -> Self {
        self.default_backend = Some(backend(service));
        self
    }

    /// A service and its ready endpoints. A service that exists already is replaced.
    pub fn service(mut self, name: &str, endpoints: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.services.retain(|(other, _)| other != name);
        self.services
            .push((name.to_owned(), endpoints.into_iter().collect()));
        self
    }

    /// An annotation of the Ingress.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The objects, each alone.
    pub fn objects(&self) -> Vec<Value> {
        let files = self.files().into_iter();
        files
            .flat_map(|(_, object)| match object["items"].as_array() {
                Some(items) => items.clone(),
                None => vec![object],
            })
            .collect()
    }

    /// Writes the objects into a directory, each file replaced as a whole.
    pub fn write_to(&self, dir: &Path) {
        fs::create_dir_all(dir).expect("make the manifest directory");
        for (file, object) in self.files() {
            let text = serde_json::to_string_pretty(&object).expect("JSON");
            // A name without a manifest's extension, so that it is never read half-written.
            let half = dir.join(format!(".{file}.tmp"));
            fs::write(&half, text).expect("write a manifest");
            fs::rename(&half, dir.join(file)).expect("put a manifest in place");
        }
    }

    /// File names and the objects in them.
    fn files(&self) -> Vec<(String, Value)> {
        let mut files = vec![
            ("listener.yaml".to_owned(), self.listener()),
            ("secret.yaml".to_owned(), secret()),
            ("ingress.yaml".to_owned(), self.ingress()),
        ];
        for (name, endpoints) in &self.services {
            files.push((format!("service-{name}.yaml"), service(name)));
            files.push((format!("endpoints-{name}.yaml"), slices(name, endpoints)));
        }
        files
    }

    fn listener(&self) -> Value {
        json!({
            "apiVersion": "citrix.com/v1",
            "kind": "Listener",
            "metadata": { "name": "web", "namespace": "default" },
            "spec": self.listener,
        })
    }

    fn ingress(&self) -> Value {
        let mut annotations = json!({ "ingress.citrix.com/listener": "web" });
        for (key, value) in &self.annotations {
            annotations[key] = json!(value);
        }
        let mut spec = json!({ "rules": self.rules });
        if let Some(backend) = &self.default_backend {
            spec["defaultBackend"] = backend.clone();
        }
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": { "name": "web", "namespace": "default", "annotations": annotations },
            "spec": spec,
        })
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

/// The backend of a rule: the services of the lab have one port, called `tls`.
fn backend(service: &str) -> Value {
    json!({ "service": { "name": service, "port": { "name": "tls" } } })
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "ports": [{ "name": "tls", "port": PORT, "targetPort": "tls" }] },
    })
}

/// The EndpointSlices of a service: one holds addresses of one family that share a port.
fn slices(service: &str, endpoints: &[SocketAddr]) -> Value {
    let slice = |n: usize, endpoint: &SocketAddr| {
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{service}-{n}"),
                "namespace": "default",
                "labels": { "kubernetes.io/service-name": service },
            },
            "addressType": if endpoint.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{
                "addresses": [endpoint.ip().to_string()],
                "conditions": { "ready": true },
            }],
            "ports": [{ "name": "tls", "port": endpoint.port(), "protocol": "TCP" }],
        })
    };
    let items: Vec<Value> = endpoints
        .iter()
        .enumerate()
        .map(|(n, endpoint)| slice(n, endpoint))
        .collect();
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

/// The Secret the Listener is bound to. Its certificate covers every host of the lab and is signed
/// by nobody a client trusts: if the router ever answered with it, every client would refuse.
fn secret() -> Value {
    let front = pki::front();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": { "name": "front", "namespace": "default" },
        "data": {
            "tls.crt": STANDARD.encode(&front.certificate_pem),
            "tls.key": STANDARD.encode(&front.key_pem),
        },
    })
}
