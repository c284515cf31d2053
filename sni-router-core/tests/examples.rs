//! Every directory of `examples/` is a configuration without a problem, and serves what its
//! comments say.

use std::fs;
use std::path::{Path, PathBuf};

use sni_router_core::manifest::{Compiler, Options, Resolved, Snapshot, SourceFile};
use sni_router_core::model::Model;

#[test]
fn every_example_serves_its_routes_without_a_problem() {
    let mut expected = EXPECTED.map(|(name, _)| name);
    expected.sort_unstable();
    assert_eq!(examples(), expected, "the directories of examples/");
    for (name, routes) in EXPECTED {
        assert_eq!(served(&build(name)), routes, "{name}");
    }
}

/// What each example serves: listener, VIP and port; pattern, backend, method, endpoints.
const EXPECTED: [(&str, &[&str]); 5] = [
    (
        "passthrough",
        &[
            "default/listener-https-passthrough 1.2.3.4:443",
            "httpsapp-netscaler.com → default/https-app:80 LeastConnection 198.51.100.11:8443",
            "shop-netscaler.com → default/shop:https LeastConnection 198.51.100.12:8443",
        ],
    ),
    (
        "wildcard",
        &[
            "default/apps 192.0.2.20:443",
            "*.apps.example.com → default/apps:https LeastConnection 198.51.100.21:8443 198.51.100.22:8443",
            "www.apps.example.com → default/www:https LeastConnection 198.51.100.23:8443",
        ],
    ),
    (
        "default-backend",
        &[
            "default/front 192.0.2.30:443",
            "* → default/catch-all:443 LeastConnection 198.51.100.31:8443",
            "legacy.example.com → default/legacy:https LeastConnection 198.51.100.32:8443",
        ],
    ),
    (
        "source-hash",
        &[
            "default/chat 192.0.2.40:443",
            "chat.example.com → default/chat:https SourceIpHash 198.51.100.41:8443 198.51.100.42:8443 198.51.100.43:8443",
        ],
    ),
    (
        "multi-namespace",
        &[
            "edge/shared 192.0.2.50:443",
            "billing.example.com → billing/web:https LeastConnection 198.51.100.51:8443",
            "search.example.com → search/web:https LeastConnection 198.51.100.52:8443",
        ],
    ),
];

/// The names of the directories, sorted.
fn examples() -> Vec<String> {
    let entries = fs::read_dir(root()).unwrap().map(Result::unwrap);
    let directories = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<_> = directories
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The model of an example, which must have no problem, not even a note.
fn build(name: &str) -> Model {
    let mut files: Vec<_> = fs::read_dir(root().join(name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| SourceFile {
            text: fs::read_to_string(&path).unwrap().into(),
            path: path.display().to_string(),
            ..SourceFile::default()
        })
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let mut compiler = Compiler::new(Options::default());
    let build = compiler.build(&Snapshot::from(files), &Resolved::new(), NOW);
    let problems: Vec<_> = build.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, [""; 0], "{name}");
    build.model
}

fn served(model: &Model) -> Vec<String> {
    let mut lines = Vec::new();
    for listener in &model.listeners {
        for vip in &listener.vips {
            lines.push(format!("{} {vip}:{}", listener.key, listener.port));
        }
        let mut routes = Vec::new();
        for route in &listener.routes {
            let backend = &route.backend;
            let endpoints = backend.endpoints.iter().flatten();
            let endpoints: Vec<_> = endpoints.map(ToString::to_string).collect();
            routes.push(format!(
                "{} → {} {:?} {}",
                route.pattern,
                backend.key,
                backend.key.method,
                endpoints.join(" ")
            ));
        }
        routes.sort();
        lines.extend(routes);
    }
    lines
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// 2030, in seconds since 1970: the certificates are valid from 2025 to 2125.
const NOW: i64 = 1_893_456_000;
