//! The example that this project began with, through a real API server.

use serde_json::{Value, json};
use sni_router_tests::topology::VIP4;

use crate::manifests::example;
use crate::town::Town;

/// Listener, Ingress, Service and Secret as they are in `examples/passthrough`; only the address is
/// the lab's. Kubernetes would write the EndpointSlice, here the test does.
#[test]
fn listener_and_ingress_of_the_example_route_tls_when_they_come_from_the_api() {
    let town = Town::new(2);
    let mut listener = example("passthrough/listener.yaml");
    listener["spec"]["vip"] = json!(VIP4.to_string());
    let host = "httpsapp-netscaler.com";
    let _server = town.serve(0, host);
    let router = town.start(&["--citrix-class"]);
    assert!(town.ask(host).is_err(), "nothing is there yet");

    for object in [
        listener,
        example("passthrough/secret-app.yaml"),
        example("passthrough/ingressclass.yaml"),
        example("passthrough/ingress-https-app.yaml"),
        service(),
        slice(&town, 0),
    ] {
        town.put(&object);
    }
    town.wait_served(host, 0);
    let answer = town.ask(host).unwrap();
    assert_eq!(answer.sni, host);

    let _other = town.serve(1, host);
    town.put(&slice(&town, 1));
    town.wait_served(host, 1);
    drop(router);
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "https-app", "namespace": "default"},
        "spec": {"ports": [{"port": 80, "targetPort": 8443}]},
    })
}

fn slice(town: &Town, backend: u8) -> Value {
    let endpoint = town.lab.endpoint(backend);
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "https-app-1", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "https-app"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [endpoint.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"port": endpoint.port(), "protocol": "TCP"}],
    })
}
