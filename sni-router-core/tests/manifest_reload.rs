//! What a change of the manifests does: an object that turns bad keeps its last good version, one
//! that is gone is gone, and nobody else notices.

mod manifest_support;

use manifest_support::*;
use sni_router_core::manifest::{
    CertificateCheck, Compiler, Options, Resolved, Snapshot, UnreadableFile,
};

/// Builds the texts of one file one after the other with one compiler.
fn history(texts: &[&str]) -> Vec<sni_router_core::manifest::Build> {
    let mut compiler = compiler();
    texts
        .iter()
        .map(|text| compiler.build(&snapshot(&[("a.yaml", text)]), &Resolved::new(), 0))
        .collect()
}

fn good() -> String {
    listener("web", 443) + &ingress("app", "a.test", "app") + &service("app", "198.51.100.1")
}

const SERVED: &str = "web a.test app:443 [198.51.100.1:8443]";

#[test]
fn listener_keeps_its_last_good_version_when_it_turns_bad() {
    for (from, to) in [
        ("vip: 192.0.2.1", "vip: nowhere"),
        ("passthrough: true", "passthrough: 'true'"),
        ("port: 443\n  protocol", "port: 99999\n  protocol"),
        ("protocol: https", "protocol: udp"),
        ("protocol: https", "protocol: gopher"),
    ] {
        let bad = good().replacen(from, to, 1);
        assert_ne!(bad, good());
        let builds = history(&[&good(), &bad, &bad, &good()]);
        for build in &builds[1..3] {
            assert_eq!(routes(build), [SERVED], "{to}");
            assert_eq!(listeners(build), ["web 192.0.2.1:443"], "{to}");
            let errors = errors(build);
            assert_eq!(errors.len(), 1, "{to}: {errors:?}");
            assert!(
                errors[0].contains("last good version stays in force"),
                "{errors:?}"
            );
        }
        assert_eq!(errors(&builds[3]), Vec::<String>::new());
        assert_eq!(
            routes(&history(&[&bad])[0]),
            Vec::<String>::new(),
            "{to} at the start"
        );
    }
}

#[test]
fn listener_is_no_longer_served_when_it_asks_for_termination() {
    for to in ["passthrough: false", "multicluster: false"] {
        let builds = history(&[&good(), &good().replacen("passthrough: true", to, 1)]);
        assert_eq!(listeners(&builds[1]), Vec::<String>::new(), "{to}");
    }
}

#[test]
fn ingress_keeps_its_last_good_version_when_a_rule_turns_bad() {
    let bad = good().replace("a.test", "10.0.0.1");
    let builds = history(&[&good(), &bad, &good().replace("a.test", "b.test")]);
    assert_eq!(routes(&builds[1]), [SERVED]);
    assert!(errors(&builds[1])[0].contains("last good version stays in force"));
    assert_eq!(
        routes(&builds[2]),
        ["web b.test app:443 [198.51.100.1:8443]"]
    );
}

#[test]
fn ingress_is_gone_when_its_class_is_another_controllers_whatever_else_it_says() {
    let classed = |class: &str| {
        let spec = format!("spec:\n  ingressClassName: {class}\n  rules");
        good().replacen("spec:\n  rules", &spec, 1)
    };
    for (from, to) in [
        ("listener: web", "listener: a/b/c"),
        (
            "ingress.citrix.com/listener: web",
            "ingress.citrix.com/listner: web",
        ),
        ("listener: web", "listener: web"),
    ] {
        let mut compiler = Compiler::new(Options {
            ingress_classes: vec!["mine".into()],
            certificates: CertificateCheck::Ignore,
            ..Options::default()
        });
        let mut build =
            |text: &str| compiler.build(&snapshot(&[("a.yaml", text)]), &Resolved::new(), 0);
        assert_eq!(routes(&build(&classed("mine"))), [SERVED]);
        let moved = build(&classed("other").replace(from, to));
        assert_eq!(routes(&moved), Vec::<String>::new(), "{to}");
        assert_eq!(errors(&moved), Vec::<String>::new(), "{to}");
    }
}

#[test]
fn object_is_gone_when_it_is_deleted() {
    let without = listener("web", 443) + &service("app", "198.51.100.1");
    let builds = history(&[&good(), &without, ""]);
    assert_eq!(routes(&builds[1]), Vec::<String>::new());
    assert_eq!(listeners(&builds[1]).len(), 1);
    assert_eq!(listeners(&builds[2]).len(), 0);
}

#[test]
fn objects_of_a_document_stay_when_it_does_not_parse() {
    let broken = good().replacen("kind: Ingress", "kind: [Ingress", 1);
    let builds = history(&[&good(), &broken, &listener("web", 443)]);
    assert_eq!(routes(&builds[1]), [SERVED]);
    assert_eq!(errors(&builds[1]).len(), 1);
    assert!(
        builds[1]
            .problems
            .iter()
            .any(|problem| problem.what.contains("Ingress default/app")),
        "{:?}",
        builds[1].problems
    );
    assert_eq!(
        routes(&builds[2]),
        Vec::<String>::new(),
        "deleted once the file can be read"
    );
}

#[test]
fn objects_of_a_file_stay_when_it_cannot_be_read() {
    let mut compiler = compiler();
    compiler.build(&snapshot(&[("a.yaml", &good())]), &Resolved::new(), 0);
    let unreadable = Snapshot {
        unreadable: vec![UnreadableFile {
            path: "a.yaml".into(),
            why: "is gone".into(),
            ..UnreadableFile::default()
        }],
        ..Snapshot::default()
    };
    for _ in 0..2 {
        let build = compiler.build(&unreadable, &Resolved::new(), 0);
        assert_eq!(routes(&build), [SERVED]);
        assert_eq!(errors(&build), ["error: File a.yaml: is gone"]);
    }
    let build = compiler.build(&snapshot(&[("a.yaml", &good())]), &Resolved::new(), 0);
    assert_eq!(build.problems, []);
}

#[test]
fn object_that_moved_to_another_file_is_taken_from_there_when_its_old_file_is_broken() {
    let mut compiler = compiler();
    compiler.build(&snapshot(&[("a.yaml", &good())]), &Resolved::new(), 0);
    let rest = listener("web", 443) + "---\n[\n";
    let moved = ingress("app", "b.test", "app") + &service("app", "198.51.100.1");
    let files = [("a.yaml", rest.as_str()), ("b.yaml", moved.as_str())];
    let build = compiler.build(&snapshot(&files), &Resolved::new(), 0);
    assert_eq!(routes(&build), ["web b.test app:443 [198.51.100.1:8443]"]);
}

#[test]
fn copy_that_is_right_is_used_when_the_first_is_not() {
    let files = [
        ("a.yaml", listener("web", 443).replace("443", "'443'")),
        ("b.yaml", listener("web", 8443)),
    ];
    let files: Vec<_> = files
        .iter()
        .map(|(path, text)| (*path, text.as_str()))
        .collect();
    let build = compiler().build(&snapshot(&files), &Resolved::new(), 0);
    assert_eq!(listeners(&build), ["web 192.0.2.1:8443"]);
    assert_eq!(errors(&build).len(), 1, "{:?}", build.problems);
}

#[test]
fn service_keeps_its_endpoints_when_a_slice_turns_bad() {
    let bad = good().replace("addresses: [198.51.100.1]", "addresses: 198.51.100.1");
    let builds = history(&[&good(), &bad]);
    assert_eq!(routes(&builds[1]), [SERVED]);
}

#[test]
fn building_the_same_snapshot_again_changes_nothing() {
    let text = good() + "---\n[\n" + &listener("bad", 443).replace("true", "maybe");
    let builds = history(&[&text, &text, &text]);
    assert_eq!(builds[0], builds[1]);
    assert_eq!(builds[1], builds[2]);
}
