//! What the authors of objects are told.

use std::time::Duration;

use serde_json::{Value, json};
use sni_router_tests::cluster::ControlPlane;
use sni_router_tests::site::Site;
use sni_router_tests::topology::{VIP4, VIP6};
use sni_router_tests::wait::{until, until_some};

use crate::town::{Town, ingress_class};

const HOST: &str = "one.example.com";

#[test]
fn listener_and_ingress_say_that_they_are_served_and_no_longer_when_they_are_not() {
    let town = Town::new(1);
    let endpoint = town.lab.endpoint(0);
    let site = Site::new().route(HOST, "one").service("one", [endpoint]);
    town.put(&ingress_class());
    town.store(&site);
    let router = town.start(&[]);

    let listener = town.wait_for(LISTENER, "the Listener is programmed", |listener| {
        is(listener, "Programmed", "True")
    });
    let status = &listener["status"];
    assert_eq!(status["state"], "Served", "{status}");
    assert_eq!(status["attachedRoutes"], 1, "{status}");
    assert_eq!(
        status["observedGeneration"],
        listener["metadata"]["generation"]
    );
    let vips = json!([VIP4.to_string(), VIP6.to_string()]);
    assert_eq!(status["addresses"], vips);
    assert!(is(&listener, "Accepted", "True") && is(&listener, "ResolvedRefs", "True"));
    assert!(is(&listener, "Conflicted", "False"), "{status}");
    town.wait_for(INGRESS, "the Ingress has the VIPs", |ingress| {
        addresses(ingress) == [VIP4.to_string(), VIP6.to_string()]
    });
    assert!((router.metric("sni_router_leader", &[]) - 1.0).abs() < 0.1);

    // Nothing is written again that is there already.
    let version = |path| town.get(path)["metadata"]["resourceVersion"].clone();
    let before = (version(LISTENER), version(INGRESS));
    let written = router.metric("sni_router_source_writes_total", &[("what", "status")]);
    town.put(&slice_of_another());
    let generation = router.generation();
    town.store(
        &site
            .clone()
            .service("one", [town.lab.endpoint(0), endpoint_of_nobody()]),
    );
    router.wait_for_generation_after(generation);
    assert_eq!((version(LISTENER), version(INGRESS)), before);
    let now = router.metric("sni_router_source_writes_total", &[("what", "status")]);
    assert!((now - written).abs() < 0.1, "{written} then {now}");

    let mut listener = site.objects().remove(0);
    listener["spec"]["vip"] = json!("no address");
    town.put(&listener);
    let degraded = town.wait_for(LISTENER, "the Listener is degraded", |listener| {
        is(listener, "Programmed", "False")
    });
    assert_eq!(degraded["status"]["state"], "Degraded");
    assert_eq!(degraded["status"]["observedGeneration"], 2);

    listener["spec"]["passthrough"] = json!(false);
    town.put(&listener);
    let refused = town.wait_for(LISTENER, "the Listener is refused", |listener| {
        listener["status"]["state"] == "Refused"
    });
    assert_eq!(refused["status"]["observedGeneration"], 3);
    town.wait_for(INGRESS, "the Ingress has no VIP", |ingress| {
        addresses(ingress).is_empty()
    });

    // Nobody of this router's names it any more: it may be another controller's.
    town.delete(INGRESS);
    town.wait_for(LISTENER, "the Listener has no status of ours", |listener| {
        listener["status"]["state"].is_null() && listener["status"]["conditions"].is_null()
    });
}

#[test]
fn problem_is_an_event_on_its_object_and_one_however_often_it_comes() {
    let town = Town::new(1);
    let endpoint = town.lab.endpoint(0);
    let bad = Site::new().route(HOST, "nobody").service("one", [endpoint]);
    let good = Site::new().route(HOST, "one").service("one", [endpoint]);
    town.put(&ingress_class());
    town.store(&bad);
    let router = town.start(&[]);
    let event = until_some("an event", SLOW, || town.events().into_iter().next());
    assert_eq!(event["type"], "Warning", "{event}");
    assert_eq!(event["regarding"]["kind"], "Ingress");
    assert_eq!(event["regarding"]["name"], "web");
    let uid = town.get(INGRESS)["metadata"]["uid"].clone();
    assert_eq!(event["regarding"]["uid"], uid);
    assert!(
        event["note"].as_str().unwrap().contains("nobody"),
        "{event}"
    );

    let count = town.events().len();
    for site in [&good, &bad, &good, &bad] {
        let generation = router.generation();
        town.store(site);
        router.wait_for_generation_after(generation);
    }
    town.wait_for(INGRESS, "the Ingress is judged", |ingress| {
        ingress["metadata"]["generation"] == 5
    });
    assert_eq!(town.events().len(), count, "{:?}", town.events());
}

#[test]
fn definition_without_passthrough_is_named_at_the_start() {
    let town = Town::new(1);
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/listeners.citrix.com";
    let mut crd = town.get(path);
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        .as_object_mut()
        .unwrap()
        .remove("passthrough");
    let spec = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec.as_object_mut()
        .unwrap()
        .remove("x-kubernetes-validations");
    crd["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("managedFields");
    town.replace(path, &crd);
    let router = town.start(&[]);
    until("the old definition is named", SLOW, || {
        router.metric("sni_router_source_definition_problems", &[]) > 0.5
    });
    assert!(router.log().text().contains("drops spec.passthrough"));
    until("it is a problem", SLOW, || {
        router.metric("sni_router_config_problems", &[("severity", "error")]) > 0.5
    });
}

impl Town {
    pub fn get(&self, path: &str) -> Value {
        get(&self.control, path)
    }

    fn replace(&self, path: &str, object: &Value) {
        let (client, body) = (self.control.client(), object.to_string().into_bytes());
        let request = http::Request::put(path).body(body).unwrap();
        let request = with_json(request);
        self.control
            .run(async move { client.request::<Value>(request).await })
            .unwrap();
    }

    /// Waits until an object is so, and gives it.
    #[track_caller]
    pub fn wait_for(&self, path: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        until_some(what, SLOW, || Some(self.get(path)).filter(&is_so))
    }

    pub fn events(&self) -> Vec<Value> {
        let list = self.get("/apis/events.k8s.io/v1/namespaces/default/events");
        list["items"].as_array().cloned().unwrap_or_default()
    }
}

/// An object of the API as it is.
pub fn get(control: &ControlPlane, path: &str) -> Value {
    let client = control.client();
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    let answer = control.run(async move { client.request(request).await });
    answer.unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn with_json(mut request: http::Request<Vec<u8>>) -> http::Request<Vec<u8>> {
    let json = http::HeaderValue::from_static("application/json");
    request.headers_mut().insert("content-type", json);
    request
}

/// Whether a Listener's condition has a status.
fn is(listener: &Value, condition: &str, status: &str) -> bool {
    let conditions = listener["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|it| it["type"] == condition && it["status"] == status)
}

pub fn addresses(ingress: &Value) -> Vec<String> {
    let entries = ingress["status"]["loadBalancer"]["ingress"].as_array();
    let entries = entries.into_iter().flatten();
    entries
        .map(|entry| entry["ip"].as_str().unwrap_or_default().to_owned())
        .collect()
}

fn endpoint_of_nobody() -> std::net::SocketAddr {
    "192.0.2.77:8443".parse().unwrap()
}

/// Something changes that nobody is told about.
fn slice_of_another() -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "x", "namespace": "default", "labels": {"kubernetes.io/service-name": "x"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.5"]}], "ports": [{"port": 1}],
    })
}

pub const LISTENER: &str = "/apis/citrix.com/v1/namespaces/default/listeners/web";
pub const INGRESS: &str = "/apis/networking.k8s.io/v1/namespaces/default/ingresses/web";

/// Election, a watch and a write, on a machine that does other things too.
pub const SLOW: Duration = Duration::from_secs(40);
