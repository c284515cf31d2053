//! Several clusters: what they share, how, and that they never see each other otherwise.

mod manifest_support;

use manifest_support::*;
use proptest::prelude::*;
use sni_router_core::manifest::{
    Build, CertificateCheck, Compiler, Options, Resolved, Snapshot, SourceFile,
};

/// A cluster with the shared Listener, an Ingress for `host` and its Service.
fn cluster(host: &str, endpoint: &str) -> String {
    shared() + &ingress("app", host, "app") + &service("app", endpoint)
}

#[test]
fn host_of_two_clusters_is_one_route_with_the_endpoints_of_both() {
    let build = build_clusters(&[
        ("east", cluster("a.test", "198.51.100.1")),
        (
            "west",
            cluster("a.test", "198.51.100.2") + &ingress("b", "b.test", "app"),
        ),
    ]);
    assert_eq!(build.problems, []);
    assert_eq!(
        shares(&build),
        [
            "default/web a.test | east/default/app:443 0 - [198.51.100.1:8443] \
             | west/default/app:443 0 - [198.51.100.2:8443]",
            "default/web b.test | west/default/app:443 0 - [198.51.100.2:8443]",
        ]
    );
}

#[test]
fn listeners_without_multicluster_never_merge() {
    let own = |vip: &str| {
        listener("web", 443).replace("192.0.2.1", vip)
            + &ingress("app", "a.test", "app")
            + &service("app", "198.51.100.1")
    };
    let apart = build_clusters(&[("east", own("192.0.2.1")), ("west", own("192.0.2.2"))]);
    assert_eq!(apart.problems, []);
    assert_eq!(
        shares(&apart),
        [
            "east/default/web a.test | east/default/app:443 0 - [198.51.100.1:8443]",
            "west/default/web a.test | west/default/app:443 0 - [198.51.100.1:8443]",
        ]
    );
    for (east, west) in [
        (own("192.0.2.1"), own("192.0.2.1")),
        (own("192.0.2.1"), cluster("a.test", "198.51.100.1")),
    ] {
        let conflict = build_clusters(&[("east", east), ("west", west)]);
        assert_eq!(shares(&conflict).len(), 1, "{:?}", shares(&conflict));
        let errors = errors(&conflict);
        assert!(
            errors[0].starts_with(
                "error: Listener west/default/web: spec.vip: 192.0.2.1:443 belongs to the older \
                 Listener east/default/web"
            ),
            "{errors:?}"
        );
    }
}

#[test]
fn objects_of_another_cluster_are_not_found() {
    let build = build_clusters(&[
        ("east", shared() + &ingress("app", "a.test", "app")),
        ("west", service("app", "198.51.100.1")),
        ("north", ingress("app", "b.test", "app")),
    ]);
    assert_eq!(
        shares(&build),
        ["default/web a.test | east/default/app:443 0 - []"]
    );
    let errors = errors(&build);
    assert!(
        errors
            .iter()
            .any(|error| error.contains("there is no Service east/default/app")),
        "{errors:?}"
    );
    assert!(
        errors
            .iter()
            .any(|error| error.contains("there is no Listener north/default/web")),
        "{errors:?}"
    );
}

#[test]
fn further_addresses_of_one_cluster_are_the_listeners() {
    let east = cluster("a.test", "198.51.100.1").replacen(
        "spec:\n",
        "spec:\n  secondaryVips: [192.0.2.9]\n",
        1,
    );
    let build = build_clusters(&[
        ("east", east.clone()),
        ("west", cluster("b.test", "198.51.100.2")),
    ]);
    assert_eq!(listeners(&build), ["web 192.0.2.1,192.0.2.9:443"]);
    let taken = listener("other", 443).replace("192.0.2.1", "192.0.2.9");
    let other = created(&taken, "2020-01-01T00:00:00Z");
    let build = build_clusters(&[
        ("east", east),
        ("west", cluster("b.test", "198.51.100.2") + &other),
    ]);
    assert_eq!(
        listeners(&build),
        ["web 192.0.2.1:443", "other 192.0.2.9:443"],
        "only the object that wants what is taken is refused"
    );
}

#[test]
fn shared_listeners_of_one_name_are_told_apart_when_they_are_two() {
    let west = cluster("a.test", "198.51.100.2").replace("192.0.2.1", "192.0.2.2");
    let build = build_clusters(&[("east", cluster("a.test", "198.51.100.1")), ("west", west)]);
    let keys: Vec<_> = build
        .model
        .listeners
        .iter()
        .map(|l| l.key.to_string())
        .collect();
    assert_eq!(keys, ["east/default/web", "west/default/web"]);
}

#[test]
fn shared_listener_is_told_apart_from_one_of_no_cluster() {
    let mut snapshot = clusters(&[("east", cluster("a.test", "198.51.100.1"))]);
    let own = listener("web", 443).replace("192.0.2.1", "192.0.2.2");
    snapshot.files.push(SourceFile {
        path: "own.yaml".into(),
        text: own.into(),
        ..SourceFile::default()
    });
    let build = compiler().build(&snapshot, &Resolved::new(), 0);
    let keys = build.model.listeners.iter().map(|l| l.key.to_string());
    let keys: Vec<_> = keys.collect();
    assert_eq!(keys, ["default/web", "east/default/web"]);
}

#[test]
fn policy_of_the_oldest_object_holds() {
    let with = |text: &str, key: &str, value: &str, year: u32| {
        let ingress = annotated(&ingress("app", "a.test", "app"), key, value);
        shared() + &created(&ingress, &format!("{year}-01-01T00:00:00Z")) + &service("app", text)
    };
    let weights = "sni-router.io/cluster-weights";
    let build = build_clusters(&[
        ("east", with("198.51.100.1", weights, "east=1,west=2", 2021)),
        ("west", with("198.51.100.2", weights, "east=3,west=4", 2020)),
    ]);
    assert_eq!(
        shares(&build),
        [
            "default/web a.test | east/default/app:443 0 3 [198.51.100.1:8443] \
          | west/default/app:443 0 4 [198.51.100.2:8443]"
        ]
    );
    let warnings = warnings(&build);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].starts_with("warning: Ingress east/default/app: spec.rules[0]"),
        "{warnings:?}"
    );
}

#[test]
fn clusters_are_in_tiers_when_the_policy_says_so() {
    let text = |policy: &str, order: &str, endpoint: &str| {
        let key = "sni-router.io/cluster-policy";
        let mut listener = with_annotation(&shared(), key, policy);
        if !order.is_empty() {
            listener = annotated(&listener, "sni-router.io/cluster-order", order);
        }
        listener + &ingress("app", "a.test", "app") + &service("app", endpoint)
    };
    let tiers = |policy: &str, order: &str, local: Option<&str>| {
        let mut compiler = Compiler::new(Options {
            certificates: CertificateCheck::Ignore,
            local_cluster: local.map(|local| local.parse().unwrap()),
            ..Options::default()
        });
        let snapshot = clusters(&[
            ("east", text(policy, order, "198.51.100.1")),
            ("north", text(policy, order, "198.51.100.2")),
            ("west", text(policy, order, "198.51.100.3")),
        ]);
        let build = compiler.build(&snapshot, &Resolved::new(), 0);
        let key = &build.model.listeners[0].routes[0].backend.key;
        let of =
            |share: &sni_router_core::model::Share| (share.service.cluster.to_string(), share.tier);
        let tiers: Vec<_> = key.shares().iter().map(of).collect();
        (tiers, warnings(&build).len())
    };
    let expected = |tiers: [(&str, u16); 3], warnings: usize| {
        let tiers = tiers.map(|(name, tier)| (name.to_owned(), tier));
        (tiers.to_vec(), warnings)
    };
    let together = [("east", 0), ("north", 0), ("west", 0)];
    for (policy, order, local, tiers_, told) in [
        ("spread", "", Some("west"), together, 0),
        (
            "prefer-local",
            "",
            Some("west"),
            [("west", 0), ("east", 1), ("north", 1)],
            0,
        ),
        ("prefer-local", "", None, together, 1),
        (
            "failover",
            "north, west",
            None,
            [("north", 0), ("west", 1), ("east", 2)],
            0,
        ),
        (
            "failover",
            "north",
            Some("west"),
            [("north", 0), ("east", 1), ("west", 1)],
            0,
        ),
    ] {
        assert_eq!(
            tiers(policy, order, local),
            expected(tiers_, told),
            "{policy} {order} {local:?}"
        );
    }
}

#[test]
fn cluster_of_weight_0_gets_nothing_unless_there_is_no_other() {
    let key = "sni-router.io/cluster-weights";
    let text = |weights: &str, endpoint: &str| {
        with_annotation(&shared(), key, weights)
            + &ingress("app", "a.test", "app")
            + &service("app", endpoint)
    };
    let build = |weights: &str| {
        build_clusters(&[
            ("east", text(weights, "198.51.100.1")),
            ("west", text(weights, "198.51.100.2")),
        ])
    };
    let drained = build("east=0");
    assert_eq!(
        shares(&drained),
        ["default/web a.test | west/default/app:443 0 1 [198.51.100.2:8443]"]
    );
    assert_eq!(drained.problems, []);
    let none = build("east=0,west=0");
    assert!(shares(&none)[0].contains("east") && shares(&none)[0].contains("west"));
    assert_eq!(warnings(&none).len(), 1, "{:?}", none.problems);
}

#[test]
fn address_in_two_clusters_is_used_once_and_told() {
    let build = build_clusters(&[
        ("east", cluster("a.test", "198.51.100.1")),
        ("west", cluster("a.test", "198.51.100.1")),
    ]);
    assert_eq!(
        shares(&build),
        [
            "default/web a.test | east/default/app:443 0 - [198.51.100.1:8443] \
          | west/default/app:443 0 - []"
        ]
    );
    let warnings = warnings(&build);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("west") && warnings[0].contains("the cluster east too"),
        "{warnings:?}"
    );
}

#[test]
fn default_backends_of_the_clusters_are_one_route() {
    let action = "  multicluster: true\n  defaultAction:\n    backend:\n      kube:\n        \
                  service: app\n        port: 443\n";
    let text = |endpoint: &str| listener("web", 443) + action + &service("app", endpoint);
    let build = build_clusters(&[
        ("east", text("198.51.100.1")),
        ("west", text("198.51.100.2")),
    ]);
    assert_eq!(build.problems, []);
    assert_eq!(
        shares(&build),
        [
            "default/web * | east/default/app:443 0 - [198.51.100.1:8443] \
          | west/default/app:443 0 - [198.51.100.2:8443]"
        ]
    );
}

/// What a cluster may have, and nothing that two clusters want differently.
fn arbitrary_cluster(number: u8) -> impl Strategy<Value = String> {
    let host = prop::sample::select(vec!["a.test", "b.test", "*.test", ""]);
    let ingress = (host, 0..3u8)
        .prop_map(|(host, n)| ingress(&format!("app-{n}"), host, &format!("app-{n}")));
    let service = (0..3u8, 1..9u8)
        .prop_map(move |(n, last)| service(&format!("app-{n}"), &format!("10.{number}.0.{last}")));
    let passthrough = prop::sample::select(vec!["true", "false"]);
    let listener = passthrough
        .prop_map(|on| shared().replace("passthrough: true", &format!("passthrough: {on}")));
    let own = Just(listener_of(number));
    let bad = prop::sample::select(vec!["---\n[\n", "---\nkind: X\n", "--- 3\n", ""]);
    (
        prop::option::of(listener),
        prop::option::of(own),
        prop::collection::vec(ingress, 0..4),
        prop::collection::vec(service, 0..4),
        bad,
    )
        .prop_map(|(listener, own, ingresses, services, bad)| {
            let parts = listener
                .into_iter()
                .chain(own)
                .chain(ingresses)
                .chain(services);
            parts.collect::<String>() + bad
        })
}

fn listener_of(number: u8) -> String {
    listener("own", 443).replace("192.0.2.1", &format!("192.0.2.{}", 10 + number))
}

/// Of every listener and pattern, what the clusters other than `gone` give.
fn without(build: &Build, gone: &str) -> Vec<String> {
    let prefix = format!(" {gone}/");
    let kept = |line: String| {
        let mut parts = line.split(" |");
        let head = parts.next().unwrap_or_default().to_owned();
        let parts: Vec<_> = parts.filter(|part| !part.starts_with(&prefix)).collect();
        (!parts.is_empty()).then(|| format!("{head} |{}", parts.join(" |")))
    };
    shares(build).into_iter().filter_map(kept).collect()
}

const NAMES: [&str; 3] = ["a", "b", "c"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn cluster_that_is_emptied_or_gone_changes_nothing_for_the_others(
        a in arbitrary_cluster(1),
        b in arbitrary_cluster(2),
        c in arbitrary_cluster(3),
        gone in 0..3usize,
    ) {
        let all: Vec<_> = NAMES.into_iter().zip([a, b, c]).collect();
        let mut rest = all.clone();
        rest.remove(gone);
        let mut emptied = all.clone();
        emptied[gone].1 = String::new();
        let before = without(&build_clusters(&all), NAMES[gone]);
        prop_assert_eq!(&before, &shares(&build_clusters(&rest)));
        prop_assert_eq!(&before, &shares(&build_clusters(&emptied)));
        // In a running router, too, and it may come back.
        let mut compiler = compiler();
        for texts in [&all, &rest, &emptied, &all] {
            let build = compiler.build(&clusters(texts), &Resolved::new(), 0);
            prop_assert_eq!(&before, &without(&build, NAMES[gone]));
        }
    }

    #[test]
    fn order_of_the_files_does_not_matter(
        a in arbitrary_cluster(1),
        b in arbitrary_cluster(2),
        c in arbitrary_cluster(3),
    ) {
        let all: Vec<_> = NAMES.into_iter().zip([a, b, c]).collect();
        let mut reversed: Snapshot = clusters(&all);
        reversed.files.reverse();
        let build = compiler().build(&reversed, &Resolved::new(), 0);
        prop_assert_eq!(build, build_clusters(&all));
    }
}
