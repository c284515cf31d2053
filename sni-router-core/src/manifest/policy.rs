//! How a backend's endpoint is chosen: from the keys NetScaler users have.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use super::check::kind_of;
use super::path::annotation;
use super::report::Report;
use crate::model::Method;

/// What `ingress.citrix.com/lbvserver` says about the Services of an Ingress.
#[derive(Debug, Default)]
pub(super) struct Policies {
    /// By Service, and by port where the annotation names one.
    methods: BTreeMap<(String, Option<String>), Method>,
}

impl Policies {
    /// Reads `{"service": {"lbmethod": "ROUNDROBIN"}}` or `{"service": {"443": {…}}}`.
    ///
    /// A wrong policy is a warning: connections are served with the default.
    pub(super) fn parse(text: &str, report: &mut Report) -> Self {
        let path = annotation(LBVSERVER);
        let mut policies = Self::default();
        let services = match serde_json::from_str(text) {
            Ok(Value::Object(services)) => services,
            Ok(other) => {
                let what = format!(
                    "is {}, expected an object; the default is used",
                    kind_of(&other)
                );
                report.warning(path, what, SHAPE);
                return policies;
            }
            Err(error) => {
                report.warning(
                    path,
                    format!("is not JSON: {error}; the default is used"),
                    SHAPE,
                );
                return policies;
            }
        };
        for (service, settings) in services {
            let Value::Object(settings) = settings else {
                let what = format!("{service:?} has {}, expected an object", kind_of(&settings));
                report.warning(path.clone(), what, SHAPE);
                continue;
            };
            let (ports, flat): (Vec<_>, Vec<_>) = settings
                .into_iter()
                .partition(|(_, value)| value.is_object());
            for (port, settings) in ports {
                let pairs = settings
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(key, value)| (key.as_str(), text_of(value)));
                let method = method(pairs, &path, report);
                policies
                    .methods
                    .insert((service.clone(), Some(port)), method);
            }
            if !flat.is_empty() {
                let pairs = flat
                    .iter()
                    .map(|(key, value)| (key.as_str(), text_of(value)));
                let method = method(pairs, &path, report);
                policies.methods.insert((service, None), method);
            }
        }
        policies
    }

    /// The policy of a Service's port.
    pub(super) fn of(&self, service: &str, port: &str) -> Method {
        let of = |port: Option<String>| self.methods.get(&(service.to_owned(), port)).copied();
        of(Some(port.to_owned()))
            .or_else(|| of(None))
            .unwrap_or_default()
    }

    /// Services that are named, and not among those that are used.
    pub(super) fn report_unused(&self, used: &HashSet<&str>, report: &mut Report) {
        let mut services: Vec<_> = self.methods.keys().map(|(service, _)| service).collect();
        services.dedup();
        services.retain(|service| !used.contains(service.as_str()));
        for service in services {
            let what = format!("{service:?} is not a Service of this Ingress");
            report.warning(
                annotation(LBVSERVER),
                what,
                "write the Service's name as in the rules",
            );
        }
    }
}

/// The method that the keys of a load-balancing virtual server mean.
pub(super) fn method<'a>(
    settings: impl Iterator<Item = (&'a str, String)>,
    path: &str,
    report: &mut Report,
) -> Method {
    let mut chosen = Method::default();
    let mut sticky = false;
    for (key, value) in settings {
        let shown = format!("{key} {value:?}");
        match (
            key.to_ascii_lowercase().as_str(),
            value.to_ascii_uppercase().as_str(),
        ) {
            ("lbmethod", "ROUNDROBIN") => chosen = Method::RoundRobin,
            ("lbmethod", "LEASTCONNECTION") => chosen = Method::LeastConnection,
            // On one VIP the destination is the same for all.
            ("lbmethod", "SOURCEIPHASH" | "SRCIPDESTIPHASH") => chosen = Method::SourceIpHash,
            ("lbmethod", _) => {
                let what = format!("{shown} is not possible here, LEASTCONNECTION is used");
                report.warning(
                    path,
                    what,
                    "write ROUNDROBIN, LEASTCONNECTION or SOURCEIPHASH",
                );
            }
            ("persistencetype", "SOURCEIP" | "SRCIPDESTIP") => sticky = true,
            ("persistencetype", "NONE") => {}
            ("persistencetype", _) => {
                let what = format!("{shown} is not possible here and is ignored");
                report.warning(path, what, "write SOURCEIP, or leave it out");
            }
            ("timeout", _) => {
                let what =
                    format!("{shown} is ignored: a source address is hashed, not remembered");
                report.note(path, what, "");
            }
            _ => report.warning(
                path,
                format!("{shown} is not a setting of this router and is ignored"),
                "",
            ),
        }
    }
    // Hashing gives the same client the same endpoint, which is all persistence asks for.
    if sticky { Method::SourceIpHash } else { chosen }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The annotation with the load-balancing settings of an Ingress' Services.
pub(super) const LBVSERVER: &str = "ingress.citrix.com/lbvserver";

const SHAPE: &str = r#"write {"service": {"lbmethod": "ROUNDROBIN"}}"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::ObjectRef;

    fn parse(text: &str) -> (Policies, Vec<String>) {
        let mut report = Report::new(ObjectRef::file("x"));
        let policies = Policies::parse(text, &mut report);
        (
            policies,
            report
                .into_problems()
                .iter()
                .map(ToString::to_string)
                .collect(),
        )
    }

    #[test]
    fn method_is_read_in_any_spelling() {
        let (policies, problems) = parse(
            r#"{"a":{"lbMethod":"RoundRobin"},"b":{"lbmethod":"SOURCEIPHASH"},
                "c":{"443":{"lbmethod":"ROUNDROBIN"},"lbmethod":"LEASTCONNECTION"}}"#,
        );
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(policies.of("a", "443"), Method::RoundRobin);
        assert_eq!(policies.of("b", "443"), Method::SourceIpHash);
        assert_eq!(policies.of("c", "443"), Method::RoundRobin);
        assert_eq!(policies.of("c", "80"), Method::LeastConnection);
        assert_eq!(policies.of("d", "80"), Method::LeastConnection);
    }

    #[test]
    fn persistence_by_source_is_hashing_whatever_the_method() {
        let (policies, problems) =
            parse(r#"{"a":{"persistenceType":"SOURCEIP","timeout":10,"lbmethod":"ROUNDROBIN"}}"#);
        assert_eq!(policies.of("a", "443"), Method::SourceIpHash);
        assert_eq!(problems.len(), 1, "{problems:?}");
    }

    #[test]
    fn method_that_is_not_possible_is_a_warning_and_the_default() {
        for text in [
            r#"{"a":{"lbmethod":"LEASTBANDWIDTH"}}"#,
            r#"{"a":"ROUNDROBIN"}"#,
            "[]",
            "{'a'",
        ] {
            let (policies, problems) = parse(text);
            assert_eq!(policies.of("a", "443"), Method::LeastConnection);
            assert_eq!(problems.len(), 1, "{text}: {problems:?}");
            assert!(problems[0].starts_with("warning: "), "{problems:?}");
        }
    }
}
