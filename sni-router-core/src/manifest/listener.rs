//! Listener objects: what of each is served, and what is wrong with it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::CertificateCheck;
use super::age::Age;
use super::allowed::{self, Allowed};
use super::annotations::report_unknown;
use super::certificate::{Certificates, CoveredNames};
use super::class::Classes;
use super::cluster_policy::{self, ClusterPolicy};
use super::crd::{self, BackendConfig, Policies, Protocol};
use super::names::is_object_name;
use super::policy::method;
use super::report::Report;
use super::vip::vips;
use crate::model::{BackendKey, ObjectKey, Vip};
use crate::problem::Reason;

/// What a Listener object says, once it is right.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) age: Age,
    /// Whether it is one listener with those of other clusters.
    pub(super) multicluster: bool,
    pub(super) terms: Terms,
    pub(super) allowed: Allowed,
    pub(super) policy: Option<ClusterPolicy>,
    pub(super) vips: Vec<Vip>,
    pub(super) port: u16,
    /// `None` where nothing says which names are covered.
    pub(super) names: Option<CoveredNames>,
    /// Where hellos go that match no host.
    pub(super) default: Option<BackendKey>,
}

/// What the clusters' objects of one listener must agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Terms {
    pub(super) is_tcp: bool,
    /// Whether a certificate is bound that is on a NetScaler instead of in a Secret; `false` where
    /// nobody asks.
    pub(super) is_preconfigured: bool,
}

/// What becomes of a Listener object.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is served.
    Serve(Box<Settings>),
    /// It is wrong, so its last good version stays.
    Bad,
    /// Its passthrough is off, so no version of it is served.
    Off(Off),
    /// It is another controller's, so no version of it is served.
    Foreign,
}

/// A Listener whose passthrough is off.
#[derive(Debug)]
pub(super) struct Off {
    /// Where it is one listener with those of other clusters, if it says so.
    pub(super) site: Option<(Vip, u16)>,
    /// Whether it names a class of this router's.
    pub(super) has_class: bool,
}

/// What a Listener is judged by.
pub(super) struct Judge<'a> {
    pub(super) classes: &'a Classes<'a>,
    pub(super) certificates: Certificates<'a>,
}

impl Judge<'_> {
    pub(super) fn read(
        &self,
        key: &ObjectKey,
        listener: &crd::Listener,
        report: &mut Report,
    ) -> Verdict {
        let spec = &listener.spec;
        if let Some(rejected) = self
            .classes
            .reject_listener(key, spec.ingressclass.as_deref())
        {
            report.note(rejected.path, rejected.what, "");
            return Verdict::Foreign;
        }
        if spec.passthrough != Some(true) {
            let what = match spec.passthrough {
                Some(_) => "is false, and this router does not terminate TLS",
                None => "is absent, which means false, and this router does not terminate TLS",
            };
            let hint = "set passthrough: true, or leave this Listener to another controller";
            report.error_because(Reason::PassthroughOff, "spec.passthrough", what, hint);
            return Verdict::Off(off(spec));
        }
        check_protocol(spec.protocol, report);
        if spec.routes.is_some() {
            let what = "is not possible with passthrough: HTTP cannot be seen";
            report.error(
                "spec.routes",
                what,
                "remove it, and name the Listener from Ingresses",
            );
        }
        let secondary = spec.secondary_vips.as_deref().unwrap_or_default();
        let vips = vips(spec.vip.as_deref(), secondary, report);
        let port = port(spec.port.unwrap_or(DEFAULT_PORT), "spec.port", report);
        let bound = spec.certificates.as_deref().unwrap_or_default();
        let names = self.certificates.read(bound, key, report);
        let annotations = listener.metadata.annotations.as_ref().unwrap_or(&NONE);
        let allowed = Allowed::read(annotations, report);
        let policy = ClusterPolicy::read(annotations, report);
        report_unknown(annotations, &OWN_ANNOTATIONS, report);
        let default = default_backend(spec.default_action.as_ref(), key, report);
        report_ignored(spec, report);
        match port {
            Some(port) if !report.has_errors() => Verdict::Serve(Box::new(Settings {
                age: Age::of(&listener.metadata, key),
                multicluster: spec.multicluster == Some(true),
                terms: Terms {
                    is_tcp: spec.protocol == Protocol::Tcp,
                    is_preconfigured: self.certificates.check != CertificateCheck::Ignore
                        && bound.iter().any(|item| item.preconfigured.is_some()),
                },
                allowed,
                policy,
                vips,
                port,
                names,
                default,
            })),
            _ => Verdict::Bad,
        }
    }
}

/// What of a Listener matters whose passthrough is off.
fn off(spec: &crd::ListenerSpec) -> Off {
    let port = u16::try_from(spec.port.unwrap_or(DEFAULT_PORT)).ok();
    let vip = match spec.vip.as_deref() {
        None => Some(Vip::Any),
        Some(text) => text
            .trim()
            .parse::<IpAddr>()
            .ok()
            .map(|addr| Vip::Addr(addr.to_canonical())),
    };
    Off {
        site: vip.zip(port).filter(|_| spec.multicluster == Some(true)),
        has_class: spec.ingressclass.is_some(),
    }
}

fn check_protocol(protocol: Protocol, report: &mut Report) {
    let what = match protocol {
        Protocol::Https | Protocol::Tcp => return,
        Protocol::Http => "http has no server name to route by",
        Protocol::Udp => "udp carries no TLS over TCP",
    };
    report.error("spec.protocol", what, "write https or tcp");
}

fn port(number: i32, path: &str, report: &mut Report) -> Option<u16> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Some(port),
        _ => {
            report.error(
                path,
                format!("{number} is not a TCP port"),
                "write a number from 1 to 65535",
            );
            None
        }
    }
}

fn default_backend(
    action: Option<&crd::DefaultAction>,
    key: &ObjectKey,
    report: &mut Report,
) -> Option<BackendKey> {
    let action = action?;
    if action.redirect.is_some() {
        let what = "has no effect: a redirect needs HTTP, which passes through undecrypted";
        report.warning("spec.defaultAction.redirect", what, "");
    }
    let kube = &action.backend.as_ref()?.kube;
    let path = DEFAULT_BACKEND;
    let port = port(kube.port, &format!("{path}.port"), report)?;
    let namespace = kube.namespace.as_deref().unwrap_or(&key.namespace);
    for (field, name) in [("service", kube.service.as_str()), ("namespace", namespace)] {
        if !is_object_name(name) {
            report.error(
                format!("{path}.{field}"),
                format!("{name:?} cannot be a name"),
                "",
            );
            return None;
        }
    }
    let config = kube.backend_config.as_ref();
    let lb = config.and_then(|config| config.lb_config.as_ref());
    let pairs = lb
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.clone()));
    let method = method(pairs, &format!("{path}.backendConfig.lbConfig"), report);
    config
        .inspect(|config| report_backend_config(config, &format!("{path}.backendConfig"), report));
    let service = key.beside(namespace, &kube.service);
    Some(BackendKey::of(service, port.to_string(), method))
}

fn report_backend_config(config: &BackendConfig, path: &str, report: &mut Report) {
    if config.secure_backend == Some(true) {
        let what = "has no effect: what the client sent encrypted stays encrypted";
        report.warning(format!("{path}.secure_backend"), what, "");
    }
    if has_entries(config.servicegroup_config.as_ref()) {
        let path = format!("{path}.servicegroupConfig");
        report.warning(path, "has no effect in this router", "");
    }
}

/// Fields that are NetScaler's own business are read, and said to do nothing.
fn report_ignored(spec: &crd::ListenerSpec, report: &mut Report) {
    if spec.redirect_port.is_some() {
        let what = "has no effect: this router answers no HTTP";
        report.warning("spec.redirectPort", what, "");
    }
    if let Some(policies) = &spec.policies {
        report_policies(policies, report);
    }
}

fn report_policies(policies: &Policies, report: &mut Report) {
    let decrypted = "has no effect: it is about what only a decrypting front end sees";
    let elsewhere = "has no effect in this router";
    for (field, present, why) in [
        ("httpprofile", policies.httpprofile.is_some(), decrypted),
        ("sslprofile", policies.sslprofile.is_some(), decrypted),
        ("sslciphers", policies.sslciphers.is_some(), decrypted),
        ("tcpprofile", policies.tcpprofile.is_some(), elsewhere),
        (
            "csvserverConfig",
            has_entries(policies.csvserver_config.as_ref()),
            elsewhere,
        ),
        (
            "analyticsprofile",
            policies.analyticsprofile.is_some(),
            elsewhere,
        ),
    ] {
        if present {
            report.warning(format!("spec.policies.{field}"), why, "");
        }
    }
}

fn has_entries(map: Option<&BTreeMap<String, String>>) -> bool {
    map.is_some_and(|map| !map.is_empty())
}

/// The field that names the Service of the default action.
pub(super) const DEFAULT_BACKEND: &str = "spec.defaultAction.backend.kube";

/// Carries TLS: https, or tcp.
const DEFAULT_PORT: i32 = 443;

static NONE: BTreeMap<String, String> = BTreeMap::new();

const OWN_ANNOTATIONS: [&str; 5] = [
    allowed::NAMES,
    allowed::SELECTOR,
    cluster_policy::POLICY,
    cluster_policy::ORDER,
    cluster_policy::WEIGHTS,
];
