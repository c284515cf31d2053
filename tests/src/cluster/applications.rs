//! Many applications, each an Ingress with a Service and four endpoints.

use futures_util::StreamExt as _;
use http::Method;
use kube::Client;
use serde_json::{Value, json};

use super::ControlPlane;

impl ControlPlane {
    /// Stores so many applications, whose hosts nobody answers for, a few at a time.
    #[track_caller]
    pub fn store_applications(&self, count: u32) {
        let client = self.client();
        self.run(async move {
            futures_util::stream::iter((0..count).flat_map(application))
                .for_each_concurrent(16, |(path, object)| {
                    let client = client.clone();
                    async move { send(&client, Method::POST, path, &object).await }
                })
                .await;
        });
    }

    /// Puts an object at its path: one request, and nothing asked before.
    #[track_caller]
    pub fn put(&self, path: &str, object: &Value) {
        let (client, path, object) = (self.client(), path.to_owned(), object.clone());
        self.run(async move { put(&client, &path, &object).await });
    }
}

/// The same for whoever is inside already.
pub async fn put(client: &Client, path: &str, object: &Value) {
    send(client, Method::PUT, path, object).await;
}

/// The endpoints of a Service of the namespace `default`, all at one port.
pub fn slice(name: &str, service: &str, addresses: &[String]) -> Value {
    let endpoints = addresses
        .iter()
        .map(|address| json!({"addresses": [address]}));
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": endpoints.collect::<Value>(),
        "ports": [{"port": 443}],
    })
}

/// The Ingress of an application, with a host, to the Service of the same name.
pub fn ingress(name: &str, host: &str) -> Value {
    let backend = json!({"service": {"name": name, "port": {"number": 443}}});
    let paths = json!([{"path": "/", "pathType": "Prefix", "backend": backend}]);
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {
            "name": name, "namespace": "default",
            "annotations": {"ingress.citrix.com/listener": "web"},
        },
        "spec": {"ingressClassName": "sni-router", "rules": [{"host": host, "http": {"paths": paths}}]},
    })
}

/// Its objects, each with the path it is created at.
fn application(n: u32) -> [(&'static str, Value); 3] {
    let name = format!("app-{n}");
    let ingress = ingress(&name, &format!("{name}.example.com"));
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": "None", "ports": [{"port": 443}]},
    });
    let addresses: Vec<_> = (0..4)
        .map(|i| format!("10.{}.{}.{i}", n / 200, n % 200))
        .collect();
    let slice = slice(&format!("{name}-1"), &name, &addresses);
    [
        (
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
            ingress,
        ),
        ("/api/v1/namespaces/default/services", service),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            slice,
        ),
    ]
}

async fn send(client: &Client, method: Method, path: &str, object: &Value) {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(object.to_string().into_bytes())
        .expect("a request");
    let answer = client.request::<Value>(request).await;
    answer.unwrap_or_else(|e| panic!("{path}: {e}"));
}
