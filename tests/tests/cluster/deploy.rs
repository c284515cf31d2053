//! What users install, by kustomize and by helm: that it renders, that the API server takes it, and
//! that both install the same.

use std::fs;

use serde_json::{Value, json};
use sni_router_tests::cluster::ControlPlane;
use sni_router_tests::cluster::objects::{DryRun, name};
use sni_router_tests::cluster::render::{deploy, helm, helm_lint, kustomize};

use crate::manifests::crd;
use crate::options::CASES;

#[test]
fn definition_of_the_listener_is_the_one_that_the_router_prints() {
    for path in [
        "kubernetes/crd.yaml",
        "helm/sni-router/crds/listeners.citrix.com.yaml",
    ] {
        let text = fs::read_to_string(deploy().join(path)).unwrap();
        assert!(
            text == crd(),
            "deploy/{path} is old: sni-router crd > deploy/{path}"
        );
    }
}

#[test]
fn api_server_takes_what_kustomize_renders_and_a_pod_of_it() {
    let control = ControlPlane::start();
    for directory in ["kubernetes", "kubernetes-privileged"] {
        let objects = kustomize(directory);
        install(&control, &objects);
        let pod = control.send(&pod_of(&objects), DryRun::Yes);
        pod.unwrap_or_else(|e| panic!("deploy/{directory}: {e}"));
    }
}

#[test]
fn api_server_takes_the_chart_with_every_option() {
    let control = ControlPlane::start();
    control.apply(NAMESPACES);
    helm_lint().unwrap();
    for (values, expected) in CASES {
        let objects = helm(values).unwrap_or_else(|e| panic!("{values:?}: {e}"));
        install(&control, &objects);
        let pod = control.send(&pod_of(&objects), DryRun::Yes);
        pod.unwrap_or_else(|e| panic!("{values:?}: {e}"));
        let text = json!(objects).to_string();
        for part in expected.iter() {
            match part.strip_prefix('!') {
                Some(part) => assert!(!text.contains(part), "{values:?}: {part} in {text}"),
                None => assert!(text.contains(part), "{values:?}: no {part} in {text}"),
            }
        }
    }
}

#[test]
fn every_value_of_the_chart_is_tried() {
    let text = fs::read_to_string(deploy().join("helm/sni-router/values.yaml")).unwrap();
    let values: serde_json::Map<String, Value> = serde_saphyr::from_str(&text).unwrap();
    assert!(values.len() > 20, "{values:?}");
    let tried = |name: &String| {
        CASES.iter().any(|(values, _)| {
            let mut values = values.iter();
            values.any(|value| value.split(['=', '.']).next() == Some(name))
        })
    };
    let untried: Vec<_> = values.keys().filter(|name| !tried(name)).collect();
    assert_eq!(untried, [""; 0]);
}

#[test]
fn chart_refuses_values_that_it_does_not_know_or_cannot_use() {
    for (value, why) in [
        ("ingresClass=[\"x\"]", "ingresClass"),
        ("certificates=\"some\"", "certificates"),
        ("datapath=\"xdp\"", "datapath"),
        ("logLevel=3", "logLevel"),
        ("drainSeconds=0", "drainSeconds"),
        ("ingressClass=\"x\"", "ingressClass"),
        ("watchNamespaces=[\"Team_A\"]", "watchNamespaces"),
        ("rbacRole=true", "rbacRole needs watchNamespaces"),
        ("datapath=\"sockmap\"", "set takeOver: false"),
    ] {
        let refused = helm(&[value]).unwrap_err();
        assert!(refused.contains(why), "{value}: {refused}");
    }
}

#[test]
fn kustomize_and_helm_install_the_same() {
    let (by_kustomize, by_helm) = (kustomize("kubernetes"), helm(&[]).unwrap());
    for kind in ["ClusterRole", "Role"] {
        let rules = |objects| sorted(&one(objects, kind)["rules"]);
        assert_eq!(rules(&by_kustomize), rules(&by_helm), "{kind}");
    }
    for kind in ["ClusterRoleBinding", "RoleBinding"] {
        let subjects = |objects| one(objects, kind)["subjects"].clone();
        assert_eq!(subjects(&by_kustomize), subjects(&by_helm), "{kind}");
    }
    let pod = |objects: &[Value]| {
        let daemons = one(objects, "DaemonSet");
        let mut spec = daemons["spec"]["template"]["spec"].clone();
        let container = spec["containers"][0].as_object_mut();
        container.expect("a container").remove("imagePullPolicy");
        (spec, daemons["spec"]["updateStrategy"].clone())
    };
    assert_eq!(pod(&by_kustomize), pod(&by_helm));
    let class = |objects| one(objects, "IngressClass")["spec"].clone();
    assert_eq!(class(&by_kustomize), class(&by_helm));
    let budget = |objects| one(objects, "PodDisruptionBudget")["spec"]["minAvailable"].clone();
    assert_eq!(budget(&by_kustomize), budget(&by_helm));
}

/// Sends all objects, the namespaces among them for good, since the others need them.
#[track_caller]
fn install(control: &ControlPlane, objects: &[Value]) {
    // kustomize and helm put what others need first.
    for object in objects {
        let needed = ["Namespace", "ServiceAccount", "CustomResourceDefinition"];
        let dry_run = match object["kind"].as_str() {
            Some(kind) if needed.contains(&kind) => DryRun::No,
            _ => DryRun::Yes,
        };
        let sent = control.send(object, dry_run);
        sent.unwrap_or_else(|e| panic!("{}: {e}", name(object)));
    }
}

/// A pod as the DaemonSet's controller makes it: validation and admission of pods see more than those
/// of a template.
fn pod_of(objects: &[Value]) -> Value {
    let daemons = one(objects, "DaemonSet");
    let template = &daemons["spec"]["template"];
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "sni-router-abcde",
            "namespace": daemons["metadata"]["namespace"],
            "labels": template["metadata"]["labels"],
        },
        "spec": template["spec"],
    })
}

/// The only object of a kind.
#[track_caller]
pub fn one<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    match (found.next(), found.next()) {
        (Some(object), None) => object,
        _ => panic!("not one {kind}"),
    }
}

fn sorted(rules: &Value) -> Vec<String> {
    let rules = rules.as_array().expect("rules");
    let mut rules: Vec<_> = rules.iter().map(Value::to_string).collect();
    rules.sort();
    rules
}

/// Where the chart is installed, and what its options name.
const NAMESPACES: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: sni-router, labels: {pod-security.kubernetes.io/enforce: privileged}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: web}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
";
