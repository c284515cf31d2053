//! Getting in: kubeconfigs, clients and tokens.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use super::ControlPlane;
use super::api_server::ApiServer;
use super::pki::Pki;
use super::place::Place;

impl ControlPlane {
    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir().join(ADMIN)
    }

    /// A token of a ServiceAccount that exists, for an hour, by the TokenRequest API.
    #[track_caller]
    pub fn token(&self, namespace: &str, name: &str) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(3600),
                ..Default::default()
            },
            ..Default::default()
        };
        let asked = name.to_owned();
        let answer = self.run(async move {
            let params = PostParams::default();
            accounts
                .create_token_request(&asked, &params, &request)
                .await
        });
        let answer = answer.unwrap_or_else(|e| panic!("a token for {namespace}/{name}: {e}"));
        answer.status.expect("a token").token
    }

    /// The kubeconfig of a ServiceAccount that exists.
    #[track_caller]
    pub fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> PathBuf {
        let user = json!({"token": self.token(namespace, name)});
        let path = self.dir().join(format!("{namespace}-{name}.kubeconfig"));
        self.write_kubeconfig(&path, user);
        path
    }

    /// Writes a kubeconfig with this user, as `{"token": …}`.
    #[track_caller]
    pub fn write_kubeconfig(&self, path: &Path, user: Value) {
        let text = kubeconfig(&self.url(), &self.pki.authority_pem, user);
        fs::write(path, text).expect("write a kubeconfig");
    }

    /// A client that is a ServiceAccount; to be used in [`ControlPlane::run`].
    #[track_caller]
    pub fn service_account_client(&self, namespace: &str, name: &str) -> Client {
        let path = self.service_account_kubeconfig(namespace, name);
        client(&self.place, &path)
    }
}

/// Writes the administrator's kubeconfig into `dir`, and gives a client of that.
#[track_caller]
pub(super) fn admin(place: &Place, pki: &Pki, server: &ApiServer, dir: &Path) -> Client {
    let user = json!({
        "client-certificate-data": STANDARD.encode(&pki.admin_pem),
        "client-key-data": STANDARD.encode(&pki.admin_key_pem),
    });
    let path = dir.join(ADMIN);
    let text = kubeconfig(&server.url(), &pki.authority_pem, user);
    fs::write(&path, text).expect("write a kubeconfig");
    client(place, &path)
}

#[track_caller]
fn client(place: &Place, kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    place.run(async move {
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let config = config.expect("a kubeconfig that is complete");
        // Its tasks start here, so that its connections are made inside the namespace.
        Client::try_from(config).expect("a client")
    })
}

/// With one cluster, one user and one context, as JSON, which is YAML too.
fn kubeconfig(url: &str, authority_pem: &str, user: Value) -> String {
    let cluster = json!({
        "server": url,
        "certificate-authority-data": STANDARD.encode(authority_pem),
    });
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "user"}}],
        "current-context": "lab",
    });
    format!("{config:#}")
}

const ADMIN: &str = "admin.kubeconfig";
