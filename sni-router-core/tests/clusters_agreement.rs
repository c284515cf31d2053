//! What clusters must agree on: every way in which two or three of them can disagree.

mod manifest_support;

use manifest_support::*;
use sni_router_core::manifest::Build;
use sni_router_core::problem::{Reason, Severity};
use sni_router_core::status::{ConditionType, desired};

/// What a cluster's Listener says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Https,
    Tcp,
    Off,
    Absent,
}

const ALL: [Says; 4] = [Says::Https, Says::Tcp, Says::Off, Says::Absent];
const NAMES: [&str; 3] = ["a", "b", "c"];

fn is_on(says: Says) -> bool {
    matches!(says, Says::Https | Says::Tcp)
}

/// A cluster whose Listener was created in that year.
fn cluster(says: Says, year: usize, last: usize) -> String {
    let listener = shared();
    let listener = match says {
        Says::Https => listener,
        Says::Tcp => listener.replace("https", "tcp"),
        Says::Off => listener.replace("passthrough: true", "passthrough: false"),
        Says::Absent => listener.replace("  passthrough: true\n", ""),
    };
    created(&listener, &format!("{}-01-01T00:00:00Z", 2000 + year))
        + &ingress("app", &format!("{}.test", NAMES[last]), "app")
        + &service("app", &format!("198.51.100.{last}"))
}

/// Who is served: all that are on and say what most of those say; of equals, the oldest.
fn served(says: &[Says], years: &[usize]) -> Vec<bool> {
    let count = |what: Says| says.iter().filter(|says| **says == what).count();
    let oldest = (0..says.len())
        .filter(|&index| is_on(says[index]))
        .min_by_key(|&index| years[index]);
    let right = match count(Says::Https).cmp(&count(Says::Tcp)) {
        std::cmp::Ordering::Greater => Some(Says::Https),
        std::cmp::Ordering::Less => Some(Says::Tcp),
        std::cmp::Ordering::Equal => oldest.map(|index| says[index]),
    };
    says.iter().map(|says| Some(*says) == right).collect()
}

fn check(says: &[Says], years: &[usize]) {
    let texts: Vec<_> = (0..says.len())
        .map(|index| (NAMES[index], cluster(says[index], years[index], index)))
        .collect();
    let build = build_clusters(&texts);
    let context = format!("{says:?} {years:?}");
    let served = served(says, years);
    let expected: Vec<_> = (0..says.len())
        .filter(|&index| served[index])
        .map(|index| format!("{}.test", NAMES[index]))
        .collect();
    let found: Vec<_> = build
        .model
        .listeners
        .iter()
        .flat_map(|l| &l.routes)
        .collect();
    let found: Vec<_> = found
        .iter()
        .map(|route| route.pattern.to_string())
        .collect();
    assert_eq!(found, expected, "{context}");

    let disagree = says.iter().any(|says| is_on(*says)) && served.contains(&false);
    for (index, name) in NAMES.iter().enumerate().take(says.len()) {
        assert_eq!(is_told(&build, name), disagree, "{name} {context}");
        assert_eq!(is_conflicted(&build, name), disagree, "{name} {context}");
        let refused = has_error(&build, name);
        assert_eq!(refused, !served[index], "{name} {context}");
    }
}

fn is_told(build: &Build, cluster: &str) -> bool {
    build.problems.iter().any(|problem| {
        problem.reason == Reason::ClusterConflict && problem.object.cluster.as_str() == cluster
    })
}

fn has_error(build: &Build, cluster: &str) -> bool {
    build.problems.iter().any(|problem| {
        problem.severity == Severity::Error
            && problem.object.kind == "Listener"
            && problem.object.cluster.as_str() == cluster
    })
}

fn is_conflicted(build: &Build, cluster: &str) -> bool {
    desired(build)
        .listeners
        .iter()
        .filter(|status| status.subject.key.cluster.as_str() == cluster)
        .flat_map(|status| &status.conditions)
        .any(|condition| condition.kind == ConditionType::Conflicted && condition.holds)
}

#[test]
fn two_clusters_in_every_combination() {
    for one in ALL {
        for other in ALL {
            for years in [[0, 1], [1, 0]] {
                check(&[one, other], &years);
            }
        }
    }
}

#[test]
fn three_clusters_in_every_combination() {
    for a in ALL {
        for b in ALL {
            for c in ALL {
                for years in [
                    [0, 1, 2],
                    [0, 2, 1],
                    [1, 0, 2],
                    [1, 2, 0],
                    [2, 0, 1],
                    [2, 1, 0],
                ] {
                    check(&[a, b, c], &years);
                }
            }
        }
    }
}

#[test]
fn both_sides_are_told_what_to_do() {
    let texts = [Says::Https, Says::Off, Says::Https]
        .into_iter()
        .enumerate()
        .map(|(index, says)| (NAMES[index], cluster(says, index, index)))
        .collect::<Vec<_>>();
    let build = build_clusters(&texts);
    let of = |cluster: &str| -> Vec<String> {
        build
            .problems
            .iter()
            .filter(|problem| problem.reason == Reason::ClusterConflict)
            .filter(|problem| problem.object.cluster.as_str() == cluster)
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(
        of("b"),
        [
            "error: Listener b/default/web: spec.passthrough: is off here and on in the clusters a, c, \
          and must be the same in every cluster, so this one is refused"
        ]
    );
    for cluster in ["a", "c"] {
        assert_eq!(
            of(cluster),
            [format!(
                "warning: Listener {cluster}/default/web: spec.passthrough: is off in b/default/web, \
                 which is refused; this one is served (set passthrough: true there, or \
                 multicluster: false)"
            )]
        );
    }
}

#[test]
fn second_listener_of_one_cluster_has_no_vote() {
    let tcp = |name: &str, year: usize| {
        let text = cluster(Says::Tcp, year, 0);
        text.replacen("name: web", &format!("name: {name}"), 1)
    };
    let build = build_clusters(&[
        ("a", tcp("web", 1) + &tcp("again", 2) + &tcp("third", 3)),
        ("b", cluster(Says::Https, 0, 1)),
    ]);
    let served = build.listeners.iter().map(|facts| facts.served.is_some());
    assert_eq!(
        served.collect::<Vec<_>>(),
        [false, false, false, true],
        "none of the younger ones slips in"
    );
    let hosts = &build.model.listeners[0].routes;
    assert_eq!(hosts.len(), 1);
    assert_eq!(
        hosts[0].pattern.to_string(),
        "b.test",
        "the oldest of one against one"
    );
}

#[test]
fn cluster_that_contradicts_itself_does_not_win_a_tie_by_age() {
    let younger = cluster(Says::Https, 2, 0).replacen("name: web", "name: again", 1);
    let build = build_clusters(&[
        ("a", cluster(Says::Tcp, 0, 0) + &younger),
        ("b", cluster(Says::Https, 1, 1)),
    ]);
    let served = build.listeners.iter().map(|facts| facts.served.is_some());
    assert_eq!(served.collect::<Vec<_>>(), [true, false, true]);
    let hosts = build.model.listeners[0].routes.iter();
    let hosts: Vec<_> = hosts.map(|route| route.pattern.to_string()).collect();
    assert_eq!(hosts, ["b.test"], "the one that agrees with the younger");
}

#[test]
fn certificates_on_a_netscaler_must_be_so_in_every_cluster() {
    use sni_router_core::manifest::{CertificateCheck, Compiler, Options, Resolved};
    let text = |certificate: &str| {
        shared() + &format!("  certificates: [{certificate}]\n") + &ingress("app", "a.test", "app")
    };
    let snapshot = clusters(&[
        ("a", text("{secret: {name: x}}")),
        ("b", text("{preconfigured: x}")),
    ]);
    let served = |certificates| {
        let options = Options {
            certificates,
            ..Options::default()
        };
        let build = Compiler::new(options).build(&snapshot, &Resolved::new(), 0);
        (
            build
                .listeners
                .iter()
                .map(|facts| facts.served.is_some())
                .collect::<Vec<_>>(),
            errors(&build),
        )
    };
    let (declared, errors) = served(CertificateCheck::Declared);
    assert_eq!(declared, [true, false]);
    assert!(
        errors.iter().any(|error| error.contains(
            "Listener b/default/web: spec.certificates: name Secrets only in the cluster a"
        )),
        "{errors:?}"
    );
    assert_eq!(served(CertificateCheck::Ignore).0, [true, true]);
}
