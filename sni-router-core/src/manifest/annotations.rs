//! The annotations of an Ingress that NetScaler knows.

use std::collections::BTreeMap;

use super::allowed;
use super::names::{ListenerName, is_object_name};
use super::nearest::nearest;
use super::path::annotation;
use super::policy::LBVSERVER;
use super::report::Report;
use crate::model::ObjectKey;

/// The Listener an Ingress attaches to.
#[derive(Debug)]
pub(super) enum Attachment {
    /// This one.
    To(ObjectKey),
    /// None is named.
    Absent,
    /// Something is named that can be no Listener; the report says what.
    Bad,
}

/// Reads `ingress.citrix.com/listener`: `name` or `namespace/name`. `default` is where Ingresses
/// attach that ask for passthrough and name no Listener.
pub(super) fn attachment(
    annotations: &BTreeMap<String, String>,
    ingress: &ObjectKey,
    default: Option<&ListenerName>,
    report: &mut Report,
) -> Attachment {
    let Some(text) = annotations.get(LISTENER) else {
        if let Some(default) = default.filter(|_| wants_passthrough(annotations)) {
            return Attachment::To(ingress.beside(&default.namespace, &default.name));
        }
        report_absent(annotations, report);
        return Attachment::Absent;
    };
    let text = text.trim();
    let (namespace, name) = text.split_once('/').unwrap_or((&ingress.namespace, text));
    if !is_object_name(namespace) || !is_object_name(name) {
        let what = format!("{text:?} cannot be the name of a Listener");
        report.error(annotation(LISTENER), what, "write name or namespace/name");
        return Attachment::Bad;
    }
    Attachment::To(ingress.beside(namespace, name))
}

/// NetScaler takes `True`, ingress-nginx `true`.
fn wants_passthrough(annotations: &BTreeMap<String, String>) -> bool {
    [PASSTHROUGH, NGINX_PASSTHROUGH].into_iter().any(|name| {
        annotations
            .get(name)
            .is_some_and(|text| text.trim().eq_ignore_ascii_case("true"))
    })
}

fn report_absent(annotations: &BTreeMap<String, String>, report: &mut Report) {
    if let Some(typed) = annotations
        .keys()
        .find(|key| key.starts_with(PREFIX) && nearest(key, [LISTENER].into_iter()).is_some())
    {
        let what = "is not an annotation of NetScaler's";
        report.error(annotation(typed), what, &format!("did you mean {LISTENER}"));
    } else if annotations.contains_key(PASSTHROUGH) {
        let what = "has no effect without a Listener";
        let hint =
            "write a Listener with passthrough: true, and name it with ingress.citrix.com/listener";
        report.warning(annotation(PASSTHROUGH), what, hint);
    } else {
        report.note(
            "metadata.annotations",
            format!("has no {LISTENER}, so it is not served"),
            "",
        );
    }
}

/// Reports annotations that have no effect on an Ingress which attaches to a Listener.
pub(super) fn report_ignored(annotations: &BTreeMap<String, String>, report: &mut Report) {
    for key in annotations.keys() {
        let Some(name) = key.strip_prefix(PREFIX) else {
            continue;
        };
        let reason = if key == LISTENER || key == LBVSERVER {
            continue;
        } else if key == PASSTHROUGH {
            "has no effect: passthrough is the Listener's"
        } else if OVERRIDDEN.contains(&name) {
            "has no effect: the Listener overrides it"
        } else if NEEDS_HTTP.iter().any(|prefix| name.starts_with(prefix)) {
            "has no effect: it is about HTTP, which passes through undecrypted"
        } else if MULTICLUSTER == name {
            "has no effect: write sni-router.io/cluster-policy"
        } else {
            "has no effect in this router"
        };
        report.warning(annotation(key), reason, "");
    }
}

/// Reports annotations of this router's own that it does not know.
pub(super) fn report_unknown(
    annotations: &BTreeMap<String, String>,
    known: &[&'static str],
    report: &mut Report,
) {
    for key in annotations.keys().filter(|key| key.starts_with(OWN_PREFIX)) {
        if known.contains(&key.as_str()) {
            continue;
        }
        let near = nearest(key, known.iter().copied());
        let (what, hint) = match near {
            _ if [allowed::NAMES, allowed::SELECTOR].contains(&key.as_str()) => (
                "is an annotation of Listeners, and closes nothing here",
                "write it to the Listener".to_owned(),
            ),
            Some(near) => (UNKNOWN, format!("did you mean {near}")),
            None => (UNKNOWN, String::new()),
        };
        if key.starts_with(RESTRICTING) {
            // Passed over, it would leave open what was meant to be closed.
            report.error(annotation(key), what, &hint);
        } else {
            report.warning(annotation(key), what, &hint);
        }
    }
}

/// The annotation that attaches an Ingress to a Listener.
pub(super) const LISTENER: &str = "ingress.citrix.com/listener";

const UNKNOWN: &str = "is not an annotation of this router's";
const NGINX_PASSTHROUGH: &str = "nginx.ingress.kubernetes.io/ssl-passthrough";
const OWN_PREFIX: &str = "sni-router.io/";
const RESTRICTING: &str = "sni-router.io/allow";
const PASSTHROUGH: &str = "ingress.citrix.com/ssl-passthrough";
const PREFIX: &str = "ingress.citrix.com/";
const MULTICLUSTER: &str = "multicluster-policy-priority-order";

/// Front-end settings that a Listener overrides, as NetScaler's documentation lists them.
const OVERRIDDEN: [&str; 11] = [
    "frontend-ip",
    "frontend-ipset-name",
    "secure-port",
    "insecure-port",
    "insecure-termination",
    "secure-service-type",
    "insecure-service-type",
    "csvserver",
    "frontend-tcpprofile",
    "frontend-sslprofile",
    "frontend-httpprofile",
];

/// Settings of the decrypted side, by how their names begin.
const NEEDS_HTTP: [&str; 5] = [
    "secure-backend",
    "backend-httpprofile",
    "backend-sslprofile",
    "backend-secret",
    "default-response-code",
];
