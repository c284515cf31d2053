//! The control plane of the tests itself.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::{ListParams, PostParams, WatchParams};
use kube::{Api, Error};
use sni_router_tests::cluster::ControlPlane;
use sni_router_tests::cluster::objects::DryRun;

use crate::manifests::{crd, example};

#[test]
fn example_is_applied_when_the_listener_type_is_there_and_only_then() {
    let control = ControlPlane::start();
    let listener = example("passthrough/listener.yaml");
    let refused = control.send(&listener, DryRun::Yes).unwrap_err();
    assert!(refused.contains("not found"), "{refused}");

    control.apply(&crd());
    let stored = control.send(&listener, DryRun::No).unwrap();
    assert_eq!(stored["spec"], listener["spec"], "nothing is pruned");
}

#[test]
fn service_account_may_do_what_rbac_grants_and_nothing_else() {
    let control = ControlPlane::start();
    control.apply(
        "
{apiVersion: v1, kind: ServiceAccount, metadata: {name: reader}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [''], resources: [configmaps], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: default}]
",
    );
    let reader = control.service_account_client("default", "reader");
    let granted: Api<ConfigMap> = Api::namespaced(reader.clone(), "default");
    let not_granted: Api<Namespace> = Api::all(reader);
    let (granted, not_granted) = control.run(async move {
        let all = ListParams::default();
        (granted.list(&all).await, not_granted.list(&all).await)
    });
    granted.unwrap();
    assert_code(not_granted.unwrap_err(), 403);
}

#[test]
fn objects_survive_the_api_server_and_old_versions_are_gone_after_a_compaction() {
    let mut control = ControlPlane::start();
    let accounts: Api<ServiceAccount> = Api::namespaced(control.client(), "default");
    let created = {
        let accounts = accounts.clone();
        control.run(async move {
            let create = async |name: &str| {
                let mut account = ServiceAccount::default();
                account.metadata.name = Some(name.to_owned());
                accounts.create(&PostParams::default(), &account).await
            };
            let first = create("first").await.unwrap();
            create("second").await.unwrap();
            first
        })
    };
    control.kill();
    let api = accounts.clone();
    let answer = control.run(async move { api.get("first").await });
    assert!(matches!(answer, Err(Error::Service(_))), "{answer:?}");

    control.restart();
    control.compact();
    let version = created.metadata.resource_version.clone().unwrap();
    let watch = control.run(async move {
        let found = accounts.get("first").await.unwrap();
        assert_eq!(found.metadata.uid, created.metadata.uid);
        let watch = accounts.watch(&WatchParams::default(), &version).await;
        first_error(watch.unwrap()).await
    });
    assert_eq!(watch, 410);
}

/// The code of the error that ends a watch.
async fn first_error(
    watch: impl futures_util::Stream<Item = kube::Result<kube::api::WatchEvent<ServiceAccount>>>,
) -> u16 {
    use futures_util::StreamExt as _;
    let mut watch = std::pin::pin!(watch);
    match watch.next().await.expect("an event").expect("an event") {
        kube::api::WatchEvent::Error(status) => status.code,
        event => panic!("{event:?}"),
    }
}

fn assert_code(error: Error, code: u16) {
    match error {
        Error::Api(status) => assert_eq!(status.code, code, "{status:?}"),
        error => panic!("{error}"),
    }
}
