//! Ingress objects: which hosts go to which Service.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule,
};

use super::age::Age;
use super::annotations::{Attachment, attachment, report_ignored, report_unknown};
use super::class::Classes;
use super::cluster_policy::{self, ClusterPolicy};
use super::names::{ListenerName, is_object_name};
use super::policy::{LBVSERVER, Policies};
use super::report::Report;
use crate::model::{BackendKey, ObjectKey};
use crate::name::{HostError, HostPattern};

/// What an Ingress asks of its Listener.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) age: Age,
    pub(super) listener: ObjectKey,
    pub(super) policy: Option<ClusterPolicy>,
    /// In the order of the Ingress, no pattern twice for the same [`Rank`].
    pub(super) wishes: Vec<Wish>,
}

/// A pattern that should go to a backend.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) pattern: HostPattern,
    pub(super) rank: Rank,
    pub(super) backend: BackendKey,
    /// The path of the field that names the backend.
    pub(super) path: String,
    /// The path of the field that names the host.
    pub(super) host_path: String,
}

/// What comes first where two wishes have the same pattern, before age decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// A rule of an Ingress.
    Rule,
    /// The defaultBackend of an Ingress.
    IngressDefault,
    /// The defaultAction of the Listener.
    ListenerDefault,
}

/// Reads an Ingress. `None` if it attaches to no Listener here.
pub(super) fn read(
    key: &ObjectKey,
    ingress: &Ingress,
    classes: &Classes<'_>,
    default_listener: Option<&ListenerName>,
    report: &mut Report,
) -> Option<Reading> {
    let none = BTreeMap::new();
    let annotations = ingress.metadata.annotations.as_ref().unwrap_or(&none);
    // First of all: whatever else another controller's Ingress says is not ours to judge.
    if let Some(rejected) = classes.reject_ingress(key, ingress) {
        report.note(rejected.path, rejected.what, "");
        return None;
    }
    let listener = match attachment(annotations, key, default_listener, report) {
        Attachment::To(listener) => listener,
        Attachment::Absent | Attachment::Bad => return None,
    };
    report_ignored(annotations, report);
    report_unknown(annotations, &OWN_ANNOTATIONS, report);
    let policies = match annotations.get(LBVSERVER) {
        Some(text) => Policies::parse(text, report),
        None => Policies::default(),
    };
    let mut reader = Reader {
        key,
        policies,
        wishes: Vec::new(),
        report,
    };
    reader.spec(ingress);
    let Reader {
        policies, wishes, ..
    } = reader;
    let used: HashSet<&str> = wishes
        .iter()
        .flat_map(|wish| wish.backend.shares())
        .map(|share| share.service.name.as_str())
        .collect();
    policies.report_unused(&used, report);
    Some(Reading {
        age: Age::of(&ingress.metadata, key),
        listener,
        policy: ClusterPolicy::read(annotations, report),
        wishes,
    })
}

struct Reader<'a> {
    key: &'a ObjectKey,
    policies: Policies,
    wishes: Vec<Wish>,
    report: &'a mut Report,
}

impl Reader<'_> {
    fn spec(&mut self, ingress: &Ingress) {
        let Some(spec) = &ingress.spec else {
            self.report
                .error("spec", "is missing", "write rules, or a defaultBackend");
            return;
        };
        let path = "spec.defaultBackend";
        let default = spec.default_backend.as_ref();
        let default = default.map(|backend| (self.backend(backend, path), path));
        if let Some((Some(backend), path)) = &default {
            self.wish(
                HostPattern::Any,
                Rank::IngressDefault,
                backend.clone(),
                path,
                path,
            );
        }
        let default = default.and_then(|(backend, _)| backend);
        let rules = spec.rules.as_deref().unwrap_or_default();
        if rules.is_empty() && spec.default_backend.is_none() {
            let what = "has neither rules nor a defaultBackend, so nothing is routed";
            self.report.warning("spec", what, "");
        }
        for (index, rule) in rules.iter().enumerate() {
            self.rule(rule, &format!("spec.rules[{index}]"), default.as_ref());
        }
        if spec.tls.as_ref().is_some_and(|tls| !tls.is_empty()) {
            let what = "is not needed: the Service has the certificate";
            self.report.note("spec.tls", what, "");
        }
    }

    fn rule(&mut self, rule: &IngressRule, path: &str, default: Option<&BackendKey>) {
        let host_path = format!("{path}.host");
        let text = rule.host.as_deref().unwrap_or_default();
        let pattern = match text.trim().parse::<HostPattern>() {
            Ok(pattern) => pattern,
            Err(error) => {
                let (what, hint) = bad_host(text, &error);
                self.report.error(host_path, what, hint);
                return;
            }
        };
        let no_paths = HTTPIngressRuleValue::default();
        let paths = &rule.http.as_ref().unwrap_or(&no_paths).paths;
        let Some(first) = paths.first() else {
            // Ingress sends a host without paths to the default backend.
            match default {
                Some(backend) => self.wish(
                    pattern,
                    Rank::Rule,
                    backend.clone(),
                    "spec.defaultBackend",
                    &host_path,
                ),
                None => self.report.error(
                    format!("{path}.http"),
                    "names no backend",
                    "write a path with a backend, or a spec.defaultBackend",
                ),
            }
            return;
        };
        let first_path = format!("{path}.http.paths[0].backend");
        let backend = self.backend(&first.backend, &first_path);
        self.check_paths(paths, path, &backend);
        if let Some(backend) = backend {
            self.wish(pattern, Rank::Rule, backend, &first_path, &host_path);
        }
    }

    /// Paths are encrypted: whatever they say, the first one's backend gets every connection.
    fn check_paths(
        &mut self,
        paths: &[HTTPIngressPath],
        rule_path: &str,
        chosen: &Option<BackendKey>,
    ) {
        for (index, path) in paths.iter().enumerate() {
            let at = format!("{rule_path}.http.paths[{index}]");
            let text = path.path.as_deref().unwrap_or_default();
            if !matches!(text, "" | "/") {
                let what = format!(
                    "{text:?} cannot be matched without decrypting, every path of the host is taken"
                );
                self.report.warning(format!("{at}.path"), what, "write /");
            }
            if index == 0 {
                continue;
            }
            let other = self.backend(&path.backend, &format!("{at}.backend"));
            if other.is_some() && other != *chosen {
                let what = "is a second backend of one host, the first path's is used";
                let hint = "give each Service a host of its own";
                self.report.warning(format!("{at}.backend"), what, hint);
            }
        }
    }

    fn backend(&mut self, backend: &IngressBackend, path: &str) -> Option<BackendKey> {
        if backend.resource.is_some() {
            let what = "is not possible: connections go to Services only";
            self.report
                .error(format!("{path}.resource"), what, "write service");
            return None;
        }
        let Some(service) = &backend.service else {
            self.report.error(
                path,
                "names no Service",
                "write service.name and service.port",
            );
            return None;
        };
        if !is_object_name(&service.name) {
            let what = format!("{:?} cannot be the name of a Service", service.name);
            self.report.error(format!("{path}.service.name"), what, "");
            return None;
        }
        let port = service.port.as_ref();
        let number = port.and_then(|port| port.number);
        let name = port
            .and_then(|port| port.name.as_deref())
            .filter(|name| !name.is_empty());
        let at = format!("{path}.service.port");
        let port = match (number, name) {
            (Some(number), None) if (1..=65535).contains(&number) => number.to_string(),
            (Some(number), None) => {
                let what = format!("{number} is not a TCP port");
                self.report.error(
                    format!("{at}.number"),
                    what,
                    "write a number from 1 to 65535",
                );
                return None;
            }
            (None, Some(name)) => name.to_owned(),
            (Some(_), Some(_)) => {
                self.report
                    .error(at, "has both a number and a name", "write one of them");
                return None;
            }
            (None, None) => {
                self.report
                    .error(at, "is missing", "write port.number or port.name");
                return None;
            }
        };
        let method = self.policies.of(&service.name, &port);
        let service = self.key.beside(&self.key.namespace, &service.name);
        Some(BackendKey::of(service, port, method))
    }

    fn wish(
        &mut self,
        pattern: HostPattern,
        rank: Rank,
        backend: BackendKey,
        path: &str,
        host_path: &str,
    ) {
        self.wishes.push(Wish {
            pattern,
            rank,
            backend,
            path: path.to_owned(),
            host_path: host_path.to_owned(),
        });
    }
}

/// What to say of a text that is no host; long ones are shortened.
fn bad_host(text: &str, error: &HostError) -> (String, &'static str) {
    let shown = match text.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    };
    if text.contains("://") {
        return (
            format!("{shown} is a URL, not a host name"),
            "write the name alone",
        );
    }
    if let Some((_, port)) = text.rsplit_once(':')
        && text.parse::<IpAddr>().is_err()
        && port.parse::<u16>().is_ok()
    {
        return (
            format!("{shown} has a port"),
            "write the name alone, the port is the Listener's",
        );
    }
    let hint = match error {
        HostError::Wildcard if text == "*" => "leave the host out to take what matches no host",
        _ => "write a DNS name, or *. and a DNS name",
    };
    (format!("{shown}: {error}"), hint)
}

const MAX_QUOTE: usize = 80;

const OWN_ANNOTATIONS: [&str; 3] = [
    cluster_policy::POLICY,
    cluster_policy::ORDER,
    cluster_policy::WEIGHTS,
];
