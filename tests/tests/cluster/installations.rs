//! Several installations of the router in one cluster, and one that is newer than what it finds.

use serde_json::{Value, json};
use sni_router_tests::daemon::Router;
use sni_router_tests::site::Site;
use sni_router_tests::topology::{VIP4, VIP6};

use crate::status::{INGRESS, LISTENER, addresses};
use crate::town::{Town, ingress_class};

#[test]
fn two_installations_leave_each_others_status_alone_and_hand_over_what_changes_its_class() {
    let town = Town::new(1);
    for name in ["a", "b"] {
        let mut class = ingress_class();
        class["metadata"] = json!({"name": name});
        town.put(&class);
    }
    let site = |host: &str| {
        let endpoint = town.lab.endpoint(0);
        Site::new().route(host, "one").service("one", [endpoint])
    };
    let of_a = of_class("a", &site("a.example.com").vip(VIP4));
    // The same under other names.
    let of_b = of_class("b", &site("b.example.com").vip(VIP6));
    let of_b: Vec<_> = of_b.iter().map(renamed).collect();
    of_a.iter().chain(&of_b).for_each(|it| town.put(it));

    let a = town.start(&["--ingress-class", "a", "--lease-name", "a"]);
    let flags = ["--ingress-class", "b", "--lease-name", "b"];
    let b = town.start(&[&flags[..], &["--workers", "1"]].concat());
    let both = [
        (LISTENER, INGRESS, VIP4, "sni-router/default/a"),
        (LISTENER_B, INGRESS_B, VIP6, "sni-router/default/b"),
    ];
    for (listener, ingress, vip, manager) in both {
        town.wait_for(listener, "the Listener is served", |it| {
            it["status"]["state"] == "Served" && managers(it) == [manager]
        });
        town.wait_for(ingress, "the Ingress has the VIP", |it| {
            addresses(it) == [vip.to_string()] && managers(it) == [manager]
        });
    }

    // Both look at everything again, and write nothing.
    let versions =
        || both.map(|(listener, ingress, ..)| [version(&town, listener), version(&town, ingress)]);
    let (before, written) = (versions(), [writes(&a), writes(&b)]);
    let generations = [a.generation(), b.generation()];
    town.put(&slice_of_one());
    a.wait_for_generation_after(generations[0]);
    b.wait_for_generation_after(generations[1]);
    town.put(&of_a[0]);
    assert_eq!(versions(), before);
    let now = [writes(&a), writes(&b)];
    assert_eq!(now, written);

    // It becomes the other installation's, and nothing stays of the first one.
    let ingress = of_b.iter().find(|it| it["kind"] == "Ingress");
    let mut ingress = ingress.expect("an Ingress").clone();
    ingress["spec"]["ingressClassName"] = json!("a");
    ingress["metadata"]["annotations"] = of_a
        .iter()
        .find(|it| it["kind"] == "Ingress")
        .expect("an Ingress")["metadata"]["annotations"]
        .clone();
    town.put(&ingress);
    town.wait_for(INGRESS_B, "it has the other VIP", |it| {
        addresses(it) == [VIP4.to_string()] && managers(it) == ["sni-router/default/a"]
    });
    town.wait_for(LISTENER_B, "its old Listener has no route", |it| {
        it["status"]["attachedRoutes"] == 0 && managers(it) == ["sni-router/default/b"]
    });
}

/// Once all installations were one field manager.
#[test]
fn what_an_older_router_wrote_goes_where_this_one_judges_and_stays_where_it_does_not() {
    let town = Town::new(1);
    town.put(&ingress_class());
    let endpoint = town.lab.endpoint(0);
    let site = Site::new()
        .route("one.example.com", "one")
        .service("one", [endpoint]);
    town.store(&site);
    let unattached = site
        .objects()
        .iter()
        .find(|it| it["kind"] == "Ingress")
        .map(|it| {
            let mut ingress = renamed(it);
            ingress["metadata"]["annotations"]["ingress.citrix.com/listener"] = json!("nobody");
            ingress
        });
    let mut unattached = unattached.expect("an Ingress");
    town.put(&unattached);
    unattached["metadata"]["name"] = json!("other");
    unattached["spec"]["ingressClassName"] = json!("nginx");
    town.put(&unattached);

    let condition = json!({
        "type": "Old", "status": "True", "reason": "Old", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let old = json!({"state": "Served", "status_message": "old", "conditions": [condition]});
    town.apply_status(LISTENER, "citrix.com/v1", "Listener", &old);
    let old = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.99"}]}});
    for path in [INGRESS, INGRESS_B, INGRESS_OTHER] {
        town.apply_status(path, "networking.k8s.io/v1", "Ingress", &old);
        assert_eq!(managers(&town.get(path)), ["sni-router"]);
    }

    let _router = town.start(&[]);
    let ours = ["sni-router/default/sni-router"];
    let listener = town.wait_for(LISTENER, "the Listener is taken over", |it| {
        managers(it) == ours && it["status"]["status_message"] != "old"
    });
    assert!(
        !listener["status"].to_string().contains("Old"),
        "{listener}"
    );
    assert_eq!(listener["status"]["state"], "Served");
    town.wait_for(INGRESS, "the Ingress is taken over", |it| {
        addresses(it) == [VIP4.to_string(), VIP6.to_string()] && managers(it) == ours
    });
    town.wait_for(
        INGRESS_B,
        "the one without a Listener has no address",
        |it| addresses(it).is_empty() && managers(it).is_empty(),
    );
    let other = town.get(INGRESS_OTHER);
    assert_eq!(addresses(&other), ["192.0.2.99"], "it is another's");
}

impl Town {
    /// Writes a status as the routers of old did.
    #[track_caller]
    fn apply_status(&self, path: &str, version: &str, kind: &str, status: &Value) {
        let name = path.rsplit('/').next();
        let patch = json!({
            "apiVersion": version, "kind": kind, "metadata": {"name": name}, "status": status,
        });
        let uri = format!("{path}/status?fieldManager=sni-router&force=true");
        let request = http::Request::patch(uri)
            .header("content-type", "application/apply-patch+yaml")
            .body(patch.to_string().into_bytes())
            .expect("a request");
        let client = self.control.client();
        let answer = self
            .control
            .run(async move { client.request::<Value>(request).await });
        answer.unwrap_or_else(|e| panic!("{path}: {e}"));
    }
}

/// Which routers wrote something of the status.
fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array();
    let mut names: Vec<_> = entries
        .into_iter()
        .flatten()
        .filter(|entry| entry["subresource"] == "status")
        .map(|entry| entry["manager"].as_str().unwrap_or_default().to_owned())
        .filter(|name| name.starts_with("sni-router"))
        .collect();
    names.sort();
    names
}

fn of_class(class: &str, site: &Site) -> Vec<Value> {
    let mut objects = site.objects();
    for object in &mut objects {
        if object["kind"] == "Listener" {
            object["spec"]["ingressclass"] = json!(class);
        } else if object["kind"] == "Ingress" {
            object["spec"]["ingressClassName"] = json!(class);
        }
    }
    objects
}

/// With the Listener and the Ingress of another name.
fn renamed(object: &Value) -> Value {
    let text = object.to_string().replace("\"web\"", "\"web-b\"");
    serde_json::from_str(&text).expect("JSON")
}

fn version(town: &Town, path: &str) -> Value {
    town.get(path)["metadata"]["resourceVersion"].clone()
}

/// Statuses that were written so far.
fn writes(router: &Router) -> String {
    let written = router.metric("sni_router_source_writes_total", &[("what", "status")]);
    format!("{written}")
}

/// The same endpoint and another one, so that everything is built again.
fn slice_of_one() -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "more", "namespace": "default", "labels": {"kubernetes.io/service-name": "one"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["192.0.2.77"]}],
        "ports": [{"name": "tls", "port": 8443}],
    })
}

const LISTENER_B: &str = "/apis/citrix.com/v1/namespaces/default/listeners/web-b";
const INGRESS_B: &str = "/apis/networking.k8s.io/v1/namespaces/default/ingresses/web-b";
const INGRESS_OTHER: &str = "/apis/networking.k8s.io/v1/namespaces/default/ingresses/other";
