//! `sni-router explain`: what a server name gets, and why.

mod backend;
mod live;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use sni_router_core::manifest::{Build, Shadowed};
use sni_router_core::name::{Host, HostPattern};
use sni_router_core::problem::{ObjectRef, Severity};
use sni_router_core::table::{Listener, Route, RouteTable};

use super::admin::Admin;
use super::check::{Manifests, problem_line};
use super::print;

/// Say which route, backend and endpoints a server name gets, and why.
///
/// Of a directory of manifests, it is looked up in the same table that `run` would use, without asking
/// DNS; without one, a running router is asked, which also says which endpoint the next connection of
/// --client gets. Exits with 0 where a listener has a route for it, 1 where none has.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    admin: Admin,

    /// As JSON, where a running router is asked
    #[arg(long, conflicts_with = "directory")]
    json: bool,

    #[command(flatten)]
    manifests: Manifests,

    /// The server name, as the client sends it
    #[arg(long, value_name = "NAME", required_unless_present = "no_sni")]
    host: Option<String>,

    /// A client that sends no server name
    #[arg(long, conflicts_with = "host")]
    no_sni: bool,

    /// The address the client connects to [default: every listener]
    #[arg(long, value_name = "IP")]
    vip: Option<IpAddr>,

    /// The port the client connects to [default: 443 with --vip, else every listener]
    #[arg(long, value_name = "N")]
    port: Option<u16>,

    /// The client's address, to say which endpoint it is hashed to
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,
}

/// Prints the explanation.
pub fn run(args: Args) -> Result<ExitCode> {
    if args.manifests.is_none() {
        return live::run(&args);
    }
    let host = args.host.as_deref().map(parse_host).transpose()?;
    let question = Question {
        host,
        vip: args.vip,
        port: args.port,
        client: args.client,
    };
    let build = args.manifests.build()?;
    let (text, found) = question.answer(&build);
    print(&text)?;
    Ok(if found {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn parse_host(text: &str) -> Result<Host> {
    text.parse()
        .with_context(|| format!("--host {text:?} is no server name a client can send"))
}

struct Question {
    /// `None`: the client sends none.
    host: Option<Host>,
    vip: Option<IpAddr>,
    port: Option<u16>,
    client: Option<IpAddr>,
}

impl Question {
    /// The explanation, and whether there is a route.
    fn answer(&self, build: &Build) -> (String, bool) {
        let table = RouteTable::compile(&build.model, 1, None);
        let listeners = self.listeners(&table);
        let mut text = String::new();
        let mut found = false;
        for listener in &listeners {
            found |= self.explain(listener, build, &mut text);
        }
        if listeners.is_empty() {
            text += &format!("No listener is served {}.\n", self.place());
        }
        if !found {
            tell(
                build,
                |_| true,
                "Errors in the manifests, one of which may be the reason:",
                &mut text,
            );
        }
        (text, found)
    }

    fn listeners<'t>(&self, table: &'t RouteTable) -> Vec<&'t Arc<Listener>> {
        match (self.vip, self.port) {
            (Some(vip), port) => {
                let local = SocketAddr::new(vip.to_canonical(), port.unwrap_or(443));
                table.listener(local).into_iter().collect()
            }
            (None, Some(port)) => table.listeners().filter(|l| l.front.port == port).collect(),
            (None, None) => table.listeners().collect(),
        }
    }

    fn place(&self) -> String {
        match (self.vip, self.port) {
            (Some(vip), port) => format!("on {}", SocketAddr::new(vip, port.unwrap_or(443))),
            (None, Some(port)) => format!("on port {port}"),
            (None, None) => "at all".into(),
        }
    }

    fn explain(&self, listener: &Listener, build: &Build, text: &mut String) -> bool {
        let vips: Vec<_> = listener
            .front
            .vips
            .iter()
            .map(ToString::to_string)
            .collect();
        let name = self
            .host
            .as_ref()
            .map_or("(no server name)".into(), ToString::to_string);
        line(text, "server name", &name);
        line(
            text,
            "listener",
            &format!(
                "{} on {} port {}",
                listener.front.key,
                vips.join(", "),
                listener.front.port
            ),
        );
        let taken = listener.route(self.host.as_ref());
        match taken {
            Some(route) => self.explain_route(route, text),
            None => line(
                text,
                "route",
                "none: the client gets an alert (--on-unknown-host, --on-no-sni)",
            ),
        }
        text.push_str("looked for, the first there is wins:\n");
        for pattern in HostPattern::candidates(self.host.as_ref()) {
            explain_pattern(listener, &pattern, taken, text);
            let lost = build.shadowed.iter().filter(|shadowed| {
                shadowed.listener == listener.front.key && shadowed.pattern == pattern
            });
            lost.for_each(|shadowed| explain_shadowed(shadowed, text));
        }
        let own = |object: &ObjectRef| {
            taken.is_some_and(|route| route.origin == *object)
                || (object.kind == "Listener"
                    && object.namespace.as_deref() == Some(&listener.front.key.namespace)
                    && object.name == listener.front.key.name)
        };
        tell(build, own, "problems of these objects:", text);
        text.push('\n');
        taken.is_some()
    }

    fn explain_route(&self, route: &Route, text: &mut String) {
        line(
            text,
            "route",
            &format!("{}, from {}", route.pattern, route.origin),
        );
        backend::explain(&route.backend, self.client, text);
    }
}

fn explain_pattern(
    listener: &Listener,
    pattern: &HostPattern,
    taken: Option<&Arc<Route>>,
    text: &mut String,
) {
    let what = match listener.routes().find(|route| route.pattern == *pattern) {
        None => "no route".into(),
        Some(route) if taken.is_some_and(|taken| taken.pattern == *pattern) => {
            format!("taken, from {}", route.origin)
        }
        Some(route) => format!("not reached, from {}", route.origin),
    };
    let _ = writeln!(text, "  {:<30} {what}", pattern.to_string());
}

fn explain_shadowed(shadowed: &Shadowed, text: &mut String) {
    let Shadowed {
        backend,
        origin,
        winner,
        ..
    } = shadowed;
    let _ = writeln!(
        text,
        "  {:<30} {origin} wants it for {backend}, but {winner} has it",
        ""
    );
}

fn tell(build: &Build, of: impl Fn(&ObjectRef) -> bool, title: &str, text: &mut String) {
    let problems: Vec<_> = build
        .problems
        .iter()
        .filter(|problem| problem.severity > Severity::Note && of(&problem.object))
        .collect();
    if problems.is_empty() {
        return;
    }
    let _ = writeln!(text, "{title}");
    for problem in problems.iter().take(MAX_PROBLEMS) {
        let _ = writeln!(text, "  {}", problem_line(problem));
    }
    if problems.len() > MAX_PROBLEMS {
        let _ = writeln!(
            text,
            "  and {} more, see `sni-router check`",
            problems.len() - MAX_PROBLEMS
        );
    }
}

fn line(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "{name:<12} {value}");
}

const MAX_PROBLEMS: usize = 10;

#[cfg(test)]
mod tests {
    use sni_router_core::manifest::{
        CertificateCheck, Compiler, Options, Resolved, Snapshot, SourceFile,
    };

    use super::*;

    const MANIFESTS: &str = r#"
apiVersion: citrix.com/v1
kind: Listener
metadata: {name: web}
spec: {vip: 192.0.2.1, protocol: https, passthrough: true}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: one
  annotations:
    ingress.citrix.com/listener: web
    ingress.citrix.com/lbvserver: '{"app": {"lbmethod": "SOURCEIPHASH"}}'
spec:
  rules:
  - host: "*.example.com"
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: app, port: {number: 443}}}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: two, annotations: {ingress.citrix.com/listener: web}}
spec:
  rules:
  - host: "*.example.com"
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: app, port: {number: 443}}}}]}
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec: {ports: [{port: 443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: app-1, labels: {kubernetes.io/service-name: app}}
addressType: IPv4
endpoints: [{addresses: [198.51.100.1]}]
ports: [{port: 8443}]
"#;

    fn answer(host: Option<&str>, vip: Option<&str>) -> (String, bool) {
        let file = SourceFile {
            path: "a.yaml".into(),
            text: MANIFESTS.into(),
            ..SourceFile::default()
        };
        let options = Options {
            certificates: CertificateCheck::Ignore,
            ..Options::default()
        };
        let build = Compiler::new(options).build(&Snapshot::from(vec![file]), &Resolved::new(), 0);
        let question = Question {
            host: host.map(|host| host.parse().unwrap()),
            vip: vip.map(|vip| vip.parse().unwrap()),
            port: None,
            client: Some("203.0.113.7".parse().unwrap()),
        };
        question.answer(&build)
    }

    #[test]
    fn answer_names_route_backend_endpoint_and_what_is_shadowed() {
        let (text, found) = answer(Some("www.Example.com"), Some("192.0.2.1"));
        assert!(found);
        for part in [
            "route        *.example.com, from Ingress default/one",
            "Service default/app:443, hash of the client's address",
            "198.51.100.1:8443 for the client 203.0.113.7",
            "www.example.com                no route",
            "Ingress default/two wants it for default/app:443, but Ingress default/one has it",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn answer_is_no_when_nothing_matches() {
        for (host, vip) in [
            (Some("example.com"), None),
            (Some("a.b.example.com"), None),
            (None, None),
            (Some("www.example.com"), Some("192.0.2.2")),
        ] {
            let (text, found) = answer(host, vip);
            assert!(!found, "{host:?} {vip:?}\n{text}");
        }
    }
}
