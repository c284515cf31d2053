//! The router as deploy/kubernetes/daemonset.yaml starts it: with those capabilities and no others,
//! and one pod after another on the same node.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use sni_router_tests::bpffs::Bpffs;
use sni_router_tests::daemon::{Datapath, Launch, Router, binary};
use sni_router_tests::rig::{Lab, Rig};
use sni_router_tests::wait::SOON;

/// Where Prometheus asks: the same address for both pods of a node.
const METRICS: &str = "127.0.0.1:9901";

#[test]
fn next_pod_takes_over_with_the_capabilities_of_the_deployment_and_the_old_one_waits_to_be_ended() {
    let (lab, bpffs, without) = (Lab::new(1), Bpffs::mount(), without());
    let endpoint = lab.listen(0);
    Rig::site(&lab).write_to(&lab.manifests());
    let (old_admin, next_admin) = (lab.admin_of("old"), lab.admin_of("next"));
    let old = pod(&lab, &bpffs, &old_admin, &without);
    let mut rig = Rig::of(old, endpoint, lab, Datapath::Tc);
    let running = rig.open();
    assert!(probe(&old_admin, "readyz"), "the first pod is ready");

    let mut next = pod(&rig.lab, &bpffs, &next_admin, &without);
    assert!(probe(&next_admin, "readyz"), "the second pod is ready");
    assert!(!probe(&old_admin, "healthz"), "one of them answers");
    rig.lab
        .net
        .router
        .connect(METRICS.parse().expect("an address"), SOON)
        .expect("the second pod serves metrics where the first did");
    let new = rig.open();
    new.exchange();
    assert_eq!(next.status()["connections"], 2, "the old one is adopted");
    assert!(!rig.router.has_ended(), "Kubernetes would start it again");

    rig.router.terminate(SOON);
    running.exchange();
    new.exchange();
    drop((running, new));
    next.terminate(SOON);
}

/// A router with the flags of the DaemonSet that matter here.
#[track_caller]
fn pod(lab: &Lab, bpffs: &Bpffs, admin: &str, without: &[String]) -> Router {
    let spec = container();
    let args = spec["args"].as_array().expect("args");
    assert!(args.iter().any(|arg| arg == "--spare-predecessor"));
    let without: Vec<_> = without.iter().map(String::as_str).collect();
    let launch = Launch {
        manifests: Some(&lab.manifests()),
        admin,
        args: &[
            "--admin",
            METRICS,
            "--datapath=tc",
            "--claim-vips",
            "--pin-dir",
            bpffs.dir(),
            "--spare-predecessor",
        ],
        without: &without,
    };
    Router::start(&lab.net.router, &launch)
}

/// Whether the probe of the DaemonSet succeeds.
fn probe(admin: &str, what: &str) -> bool {
    let mut command = Command::new(binary());
    command.args(["status", &format!("--probe={what}"), "--admin", admin]);
    command.output().expect("start sni-router").status.success()
}

/// Every capability that the DaemonSet does not add, as setpriv(1) names them.
pub(super) fn without() -> Vec<String> {
    let spec = container();
    let capabilities = &spec["securityContext"]["capabilities"];
    assert_eq!(capabilities["drop"][0], "ALL");
    let added = capabilities["add"].as_array().expect("capabilities");
    let added: Vec<_> = added
        .iter()
        .map(|name| name.as_str().expect("a name").to_lowercase())
        .collect();
    assert!(!added.contains(&"sys_admin".to_owned()), "{added:?}");
    let all = Command::new("setpriv").arg("--list-caps").output();
    let all = String::from_utf8(all.expect("start setpriv").stdout).expect("text");
    let known = |name: &String| all.lines().any(|line| line == name);
    assert!(added.iter().all(known), "{added:?} in {all}");
    let others = all.lines().filter(|name| !added.iter().any(|a| a == name));
    others.map(str::to_owned).collect()
}

/// The only container of the DaemonSet.
fn container() -> Value {
    let path = "../deploy/kubernetes/daemonset.yaml";
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
    let object: Value = serde_saphyr::from_str(&text.expect("a file")).expect("YAML");
    object["spec"]["template"]["spec"]["containers"][0].clone()
}
