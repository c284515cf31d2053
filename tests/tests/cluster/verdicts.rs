//! What the API server says of every manifest of the repository, next to what we say of it.
//!
//! The server knows the schema and, of an object, only that object; we know what the objects mean
//! together. So we refuse more. What the server refuses and we do not is a file that nobody can have
//! in a cluster.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sni_router_core::manifest::{Compiler, Options, Resolved, Snapshot, SourceFile};
use sni_router_core::problem::Severity;
use sni_router_tests::cluster::ControlPlane;
use sni_router_tests::cluster::objects::{DryRun, documents};

use crate::differences::{ONLY_THE_SERVER_REFUSES, ONLY_WE_REFUSE};
use crate::manifests::{crd, repository};

#[test]
fn api_server_and_router_agree_on_every_manifest_but_where_it_is_said_why_not() {
    let control = ControlPlane::start();
    control.apply(&crd());
    for namespace in NAMESPACES {
        control.apply(&format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}"
        ));
    }
    let mut only_we = BTreeMap::new();
    let mut only_the_server = BTreeMap::new();
    let (bad, examples) = (files("tests/bad-manifests"), files("examples"));
    assert!(bad.len() > 80 && examples.len() > 20, "files are missing");
    for path in bad.into_iter().chain(examples) {
        let name = path.strip_prefix(repository()).expect("below it");
        let name = name.display().to_string();
        let text = fs::read_to_string(&path).expect("a manifest");
        match (of_the_server(&control, &text), ours(&path, &text)) {
            (Ok(()), Err(why)) => only_we.insert(name, why),
            (Err(why), Ok(())) => only_the_server.insert(name, why),
            _ => None,
        };
    }
    let found = [
        differences(&only_we, &ONLY_WE_REFUSE),
        differences(&only_the_server, &ONLY_THE_SERVER_REFUSES),
    ];
    let none: [Vec<String>; 2] = Default::default();
    assert_eq!(found, none, "not as the tables have it");
}

/// Whether the server takes every object of a text.
fn of_the_server(control: &ControlPlane, text: &str) -> Result<(), String> {
    documents(text)?
        .iter()
        .try_for_each(|object: &Value| control.send(object, DryRun::Yes).map(drop))
}

/// Whether we find no error in a text, beside the one that its directory is right with.
fn ours(path: &Path, text: &str) -> Result<(), String> {
    let name = path.display().to_string();
    let mut sources = beside(path);
    sources.push((name.clone(), text.to_owned()));
    let files: Vec<_> = sources
        .into_iter()
        .map(|(path, text)| SourceFile {
            path,
            text: text.into(),
            ..SourceFile::default()
        })
        .collect();
    let mut compiler = Compiler::new(Options::default());
    let build = compiler.build(&Snapshot::from(files), &Resolved::new(), NOW);
    let mut errors = build.problems.iter().filter(|problem| {
        let at = problem.at.as_ref();
        problem.severity == Severity::Error && at.is_none_or(|at| at.file == name)
    });
    errors.next().map_or(Ok(()), |error| Err(error.to_string()))
}

/// The other files of an example; of the bad manifests, the good one.
fn beside(path: &Path) -> Vec<(String, String)> {
    let directory = path.parent().expect("a directory");
    let mut others = vec![];
    for other in files_in(directory) {
        let is_bad = directory.ends_with("bad-manifests") && !other.ends_with("good.yaml");
        if other != path && !is_bad {
            let text = fs::read_to_string(&other).expect("a manifest");
            others.push((other.display().to_string(), text));
        }
    }
    others
}

/// What is not in the table, and what is there but not so.
fn differences(found: &BTreeMap<String, String>, table: &[(&str, &str)]) -> Vec<String> {
    let is_known = |name: &str| table.iter().any(|(known, _)| *known == name);
    let unknown = found.iter().filter(|(name, _)| !is_known(name));
    let gone = table.iter().filter(|(name, _)| !found.contains_key(*name));
    let unknown = unknown.map(|(name, why)| format!("{name}: {why}"));
    unknown
        .chain(gone.map(|(name, _)| format!("{name} is not refused, or by both")))
        .collect()
}

/// All files below a directory of the repository, sorted.
fn files(directory: &str) -> Vec<PathBuf> {
    files_in(&repository().join(directory))
}

fn files_in(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.extension().and_then(|extension| extension.to_str()) {
            _ if path.is_dir() => found.extend(files_in(&path)),
            Some("yaml" | "json") => found.push(path),
            _ => {}
        }
    }
    found.sort();
    found
}

/// Those that manifests name and no cluster has by itself.
const NAMESPACES: [&str; 5] = ["billing", "edge", "elsewhere", "search", "team"];

/// 2026-01-01, between the dates of the certificates.
const NOW: i64 = 1_767_225_600;
