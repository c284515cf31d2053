//! Every file of `tests/bad-manifests`, beside one that is right: the problems it is told, and
//! what is served all the same.
//!
//! The expected texts are in `snapshots/`; `cargo insta review` shows what a change does to them.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use sni_router_core::manifest::{Compiler, Options, Resolved, Snapshot, SourceFile};
use sni_router_core::model::Model;

#[test]
fn every_bad_manifest_tells_its_problems_and_harms_nobody_else() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bad-manifests");
    let good = read(&directory.join("good.yaml"));
    let untouched = build(vec![good.clone()]);
    assert_eq!(untouched.1, "", "good.yaml is right");

    let mut paths: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with("good.yaml"))
        .collect();
    paths.sort();
    assert!(paths.len() >= 40, "only {} bad manifests", paths.len());
    for path in paths {
        let file = read(&path);
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let (model, told) = build(vec![good.clone(), file]);
        assert_ne!(told, "", "{name} has no problem");
        assert!(!told.contains("SECRET-"), "{name} shows a secret:\n{told}");
        assert_good_is_served(&model, &name);
        insta::assert_snapshot!(name, format!("{told}\n{}", served(&model)));
    }
}

fn read(path: &Path) -> SourceFile {
    SourceFile {
        path: path.file_name().unwrap().to_string_lossy().into_owned(),
        text: fs::read_to_string(path).unwrap().into(),
        ..SourceFile::default()
    }
}

fn build(files: Vec<SourceFile>) -> (Model, String) {
    let mut compiler = Compiler::new(Options::default());
    let build = compiler.build(&Snapshot::from(files), &Resolved::new(), NOW);
    let mut told = String::new();
    for problem in &build.problems {
        let place = problem
            .at
            .as_ref()
            .map_or_else(String::new, |at| format!("{at}: "));
        writeln!(told, "{place}{problem}").unwrap();
    }
    (build.model, told)
}

/// The route of good.yaml is served as if nothing else were there.
fn assert_good_is_served(model: &Model, name: &str) {
    let listener = model
        .listeners
        .iter()
        .find(|listener| listener.key.name == "good");
    let listener = listener.unwrap_or_else(|| panic!("{name} took the good Listener away"));
    let route = listener
        .routes
        .iter()
        .find(|route| route.pattern.to_string() == "good.test")
        .unwrap_or_else(|| panic!("{name} took the good route away"));
    assert_eq!(route.origin.name, "good", "{name}");
    assert_eq!(
        route.backend.endpoints,
        [["198.51.100.1:8443".parse().unwrap()]],
        "{name}"
    );
}

fn served(model: &Model) -> String {
    let mut text = String::from("served:\n");
    for listener in &model.listeners {
        for vip in &listener.vips {
            writeln!(text, "  {} on {vip} port {}", listener.key, listener.port).unwrap();
        }
        for route in &listener.routes {
            let backend = &route.backend;
            let endpoints: Vec<_> = backend
                .endpoints
                .iter()
                .flatten()
                .map(ToString::to_string)
                .collect();
            let method = backend.key.method;
            let to = format!("{} {method:?} [{}]", backend.key, endpoints.join(", "));
            writeln!(text, "    {} -> {to}", route.pattern).unwrap();
        }
    }
    text
}

/// 2026-01-01: between the dates of the certificates.
const NOW: i64 = 1_767_225_600;
