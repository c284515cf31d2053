//! Credentials that a program gives, and a program that does not.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sni_router_tests::cluster::ControlPlane;
use sni_router_tests::daemon::Router;
use sni_router_tests::site::Site;
use sni_router_tests::wait::{SOON, until};

use crate::clusters::{fill, stale};
use crate::manifests::crd;
use crate::town::Town;

const EAST: &str = "east.example.com";
const WEST: &str = "west.example.com";

#[test]
fn plugin_that_hangs_floods_or_fails_at_a_renewal_harms_nobody_and_is_forgiven() {
    let town = Town::new(2);
    let mut west = west(&town);
    let _servers = [town.serve(0, EAST), town.serve(1, WEST)];
    let plugin = Plugin::create(&town, &west);
    plugin.does(GIVE);
    let router = plugin.start(&town);
    town.wait_served(EAST, 0);
    town.wait_served(WEST, 1);

    plugin.does(HANG);
    // Every watch must begin again, and what it began with does not last.
    west.restart();
    until("the plugin that hangs is named", LONG, || {
        why(&router).contains("has not ended within")
    });
    assert!(stale(&router, "west") && !stale(&router, "east"));
    town.wait_served(WEST, 1);
    let more = site(&town, EAST, 0).route("more.example.com", "one");
    fill(&town.control, &more);
    town.wait_served(EAST, 0);
    until("the other cluster is followed", SOON, || {
        routes(&router).contains("more.example.com")
    });
    assert!(plugin.running() <= 1, "of {}", plugin.runs());

    plugin.does("exec yes");
    until("the flood is named", LONG, || {
        why(&router).contains("prints more than")
    });
    plugin.does("echo 'no answer from the token service' >&2; exit 7");
    until("its words are told", LONG, || {
        why(&router).contains("no answer from the token service")
    });
    town.wait_served(WEST, 1);

    plugin.does(GIVE);
    until("the cluster is up to date", LONG, || {
        !stale(&router, "west")
    });
    fill(&west, &site(&town, WEST, 1).route("new.example.com", "one"));
    until("it is followed again", SOON, || {
        routes(&router).contains("new.example.com")
    });
    // One process, and never one a watch.
    assert!(plugin.runs() < 30, "{} runs", plugin.runs());
}

#[test]
fn cluster_whose_plugin_hangs_from_the_start_holds_up_no_other_and_refused_credentials_are_renewed()
{
    let town = Town::new(2);
    let west = west(&town);
    let _servers = [town.serve(0, EAST), town.serve(1, WEST)];
    let plugin = Plugin::create(&town, &west);
    plugin.does(HANG);
    let mut router = plugin.start(&town);
    town.wait_served(EAST, 0);
    until("west is stale", LONG, || stale(&router, "west"));
    assert!(town.ask(WEST).is_err(), "nothing is known of it");

    // Without an end, so only the API server can say that they are no good.
    plugin.does("echo '{\"status\": {\"token\": \"nonsense\"}}'");
    until("they are refused", LONG, || {
        why(&router).contains("Unauthorized")
    });
    plugin.does("cat certificate");
    until("west is served", LONG, || town.ask(WEST).is_ok());
    town.wait_served(WEST, 1);
    until("west is up to date", LONG, || !stale(&router, "west"));

    // The next router serves what this one knew, and what it has started ends with it.
    router.terminate(SOON);
    plugin.does(HANG);
    let mut router = plugin.start(&town);
    town.wait_served(WEST, 1);
    until("the plugin hangs", SOON, || plugin.running() == 1);
    router.terminate(SOON);
    until("no plugin is left", SOON, || plugin.running() == 0);
}

/// A program whose doing can be changed, for the cluster `west`.
struct Plugin {
    dir: PathBuf,
}

impl Plugin {
    #[track_caller]
    fn create(town: &Town, west: &ControlPlane) -> Self {
        let dir = town.lab.dir().join("plugin");
        fs::create_dir(&dir).expect("a directory");
        west.apply(ACCOUNT);
        let admin = fs::read_to_string(west.kubeconfig()).expect("a kubeconfig");
        let admin: Value = serde_json::from_str(&admin).expect("JSON");
        let user = &admin["users"][0]["user"];
        let text = |field: &str| {
            let bytes = STANDARD.decode(user[field].as_str().expect("base64"));
            String::from_utf8(bytes.expect("base64")).expect("PEM")
        };
        let certificate = json!({"status": {
            "clientCertificateData": text("client-certificate-data"),
            "clientKeyData": text("client-key-data"),
        }});
        for (file, text) in [
            ("token", west.token("default", "router")),
            ("certificate", certificate.to_string()),
            ("runs", String::new()),
            // Its process id says later whether it still runs.
            ("plugin", "cd ${0%/*}; echo $$ >> runs; . ./does\n".into()),
        ] {
            fs::write(dir.join(file), text).expect("write a file");
        }
        let exec = json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "sh",
            "args": [dir.join("plugin")],
            "interactiveMode": "Never",
        });
        west.write_kubeconfig(&dir.join("kubeconfig"), json!({"exec": exec}));
        Self { dir }
    }

    /// What it does from now on: a script, which takes the place of the old one as a whole.
    #[track_caller]
    fn does(&self, script: &str) {
        let half = self.dir.join("does.new");
        fs::write(&half, script).expect("write a script");
        fs::rename(half, self.dir.join("does")).expect("rename it");
    }

    /// A router of both clusters.
    #[track_caller]
    fn start(&self, town: &Town) -> Router {
        let named = |name: &str, path: &Path| format!("{name}={}", path.display());
        let east = named("east", &town.control.kubeconfig());
        let west = named("west", &self.dir.join("kubeconfig"));
        town.start(&["--cluster", &east, "--cluster", &west])
    }

    fn started(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join("runs")).expect("a file");
        text.lines().map(str::to_owned).collect()
    }

    /// How often it was run so far.
    fn runs(&self) -> usize {
        self.started().len()
    }

    /// How many of it run now.
    fn running(&self) -> usize {
        let place = self.dir.display().to_string();
        let runs = |pid: &String| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(&place)
        };
        self.started().iter().filter(|pid| runs(pid)).count()
    }
}

/// Both clusters have a site: the other one is the town's.
#[track_caller]
fn west(town: &Town) -> ControlPlane {
    let west = ControlPlane::start_in(&town.lab.net.router);
    west.apply(&crd());
    fill(&town.control, &site(town, EAST, 0));
    fill(&west, &site(town, WEST, 1));
    west
}

fn site(town: &Town, host: &str, backend: u8) -> Site {
    Site::new()
        .route(host, "one")
        .service("one", [town.lab.endpoint(backend)])
}

/// What the router says is wrong with its clusters.
fn why(router: &Router) -> String {
    router.status()["clusters"].to_string()
}

fn routes(router: &Router) -> String {
    router.get("/api/v1/routes").body
}

/// A token that is good for a quarter of a minute.
const GIVE: &str = r#"
until=$(date -u -d '+15 seconds' +%Y-%m-%dT%H:%M:%SZ)
printf '{"kind": "ExecCredential", "status": {"token": "%s", "expirationTimestamp": "%s"}}' "$(cat token)" "$until"
"#;

/// In a process of its own, which holds the pipe as well.
const HANG: &str = "sleep 1000";

const ACCOUNT: &str = "
{apiVersion: v1, kind: ServiceAccount, metadata: {name: router, namespace: default}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: router}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: router, namespace: default}]
";

/// A plugin gets twenty seconds, and after a failure a pause.
const LONG: Duration = Duration::from_secs(120);
