//! Texts of manifests, and short words for what was built from them.
#![allow(dead_code, reason = "every test file uses some of it")]

use sni_router_core::manifest::{
    Build, CertificateCheck, Compiler, Options, Resolved, Snapshot, SourceFile,
};
use sni_router_core::model::{Listener, Route};
use sni_router_core::problem::Severity;

/// Named texts.
pub fn snapshot(files: &[(&str, &str)]) -> Snapshot {
    let files = files.iter().map(|(path, text)| SourceFile {
        path: (*path).into(),
        text: (*text).into(),
        ..SourceFile::default()
    });
    Snapshot::from(files.collect::<Vec<_>>())
}

/// Named texts, each of a cluster of its own.
pub fn clusters(texts: &[(&str, String)]) -> Snapshot {
    let files = texts.iter().map(|(cluster, text)| SourceFile {
        cluster: cluster.parse().unwrap(),
        path: "a.yaml".into(),
        text: text.as_str().into(),
    });
    Snapshot::from(files.collect::<Vec<_>>())
}

/// Builds them once.
pub fn build_clusters(texts: &[(&str, String)]) -> Build {
    compiler().build(&clusters(texts), &Resolved::new(), 0)
}

/// The Listener `web` on `192.0.2.1:443` that is one with those of other clusters.
pub fn shared() -> String {
    listener("web", 443) + "  multicluster: true\n"
}

/// The same object, created at a time.
pub fn created(object: &str, time: &str) -> String {
    object.replacen(
        "metadata:\n",
        &format!("metadata:\n  creationTimestamp: \"{time}\"\n"),
        1,
    )
}

/// The same object with an annotation; it must have others.
pub fn annotated(object: &str, key: &str, value: &str) -> String {
    let line = format!("annotations:\n    {key}: \"{value}\"\n");
    object.replacen("annotations:\n", &line, 1)
}

/// The same Listener with an annotation as its only one.
pub fn with_annotation(listener: &str, key: &str, value: &str) -> String {
    let line = format!("metadata:\n  annotations:\n    {key}: \"{value}\"\n");
    listener.replacen("metadata:\n", &line, 1)
}

/// Every route with all that its clusters give, as
/// `listener pattern Service:port tier weight [endpoints] …`.
pub fn shares(build: &Build) -> Vec<String> {
    let mut lines = Vec::new();
    for listener in &build.model.listeners {
        for route in &listener.routes {
            let mut line = format!("{} {}", listener.key, route.pattern);
            let shares = route.backend.key.shares().iter();
            for (share, endpoints) in shares.zip(&route.backend.endpoints) {
                let weight = share.weight.map_or("-".into(), |weight| weight.to_string());
                let endpoints: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
                line += &format!(
                    " | {}:{} {} {weight} [{}]",
                    share.service,
                    share.port,
                    share.tier,
                    endpoints.join(", ")
                );
            }
            lines.push(line);
        }
    }
    lines
}

/// A compiler that asks nothing of certificates.
pub fn compiler() -> Compiler {
    Compiler::new(Options {
        certificates: CertificateCheck::Ignore,
        ..Options::default()
    })
}

/// Builds one text once.
pub fn build(text: &str) -> Build {
    compiler().build(&snapshot(&[("a.yaml", text)]), &Resolved::new(), 0)
}

/// The same, with classes.
pub fn build_for(classes: &[&str], text: &str) -> Build {
    let mut compiler = Compiler::new(Options {
        ingress_classes: classes.iter().map(|class| (*class).into()).collect(),
        certificates: CertificateCheck::Ignore,
        ..Options::default()
    });
    compiler.build(&snapshot(&[("a.yaml", text)]), &Resolved::new(), 0)
}

/// A Listener of that name on `192.0.2.1:port`.
pub fn listener(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: citrix.com/v1\nkind: Listener\nmetadata:\n  name: {name}\nspec:\n  \
         vip: 192.0.2.1\n  port: {port}\n  protocol: https\n  passthrough: true\n"
    )
}

/// An Ingress that sends `host` to port 443 of `service`, attached to the Listener `web`.
pub fn ingress(name: &str, host: &str, service: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  \
         annotations:\n    ingress.citrix.com/listener: web\nspec:\n  rules:\n  \
         - host: \"{host}\"\n    http:\n      paths:\n      - path: /\n        \
         pathType: Prefix\n        backend:\n          service:\n            \
         name: {service}\n            port:\n              number: 443\n"
    )
}

/// A Service of that name and one slice with one endpoint.
pub fn service(name: &str, endpoint: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  ports:\n  \
         - port: 443\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
         name: {name}-1\n  labels:\n    kubernetes.io/service-name: {name}\naddressType: IPv4\n\
         endpoints:\n- addresses: [{endpoint}]\nports:\n- port: 8443\n"
    )
}

/// Every route as `listener pattern service:port [endpoints]`.
pub fn routes(build: &Build) -> Vec<String> {
    let of = |listener: &Listener| {
        let name = listener.key.name.clone();
        let line = move |route: &Route| {
            let endpoints = route
                .backend
                .endpoints
                .iter()
                .flatten()
                .map(ToString::to_string);
            let endpoints = endpoints.collect::<Vec<_>>().join(", ");
            let shares = route.backend.key.shares().iter();
            let services = shares.map(|share| format!("{}:{}", share.service.name, share.port));
            let services = services.collect::<Vec<_>>().join(" + ");
            format!("{name} {} {services} [{endpoints}]", route.pattern)
        };
        listener.routes.iter().map(line).collect::<Vec<_>>()
    };
    build.model.listeners.iter().flat_map(of).collect()
}

/// Every listener as `name vip,vip:port`.
pub fn listeners(build: &Build) -> Vec<String> {
    let of = |listener: &Listener| {
        let vips: Vec<_> = listener.vips.iter().map(ToString::to_string).collect();
        format!("{} {}:{}", listener.key.name, vips.join(","), listener.port)
    };
    build.model.listeners.iter().map(of).collect()
}

/// The errors as they are printed.
pub fn errors(build: &Build) -> Vec<String> {
    told(build, Severity::Error)
}

/// The warnings as they are printed.
pub fn warnings(build: &Build) -> Vec<String> {
    told(build, Severity::Warning)
}

fn told(build: &Build, severity: Severity) -> Vec<String> {
    let of = build
        .problems
        .iter()
        .filter(|problem| problem.severity == severity);
    of.map(ToString::to_string).collect()
}
