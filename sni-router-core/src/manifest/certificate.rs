//! The certificates bound to a Listener: never used on a connection, checked because a wrong one
//! is usually a wrong Listener.

use std::collections::HashSet;

use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;
use x509_parser::time::ASN1Time;

use super::CertificateCheck;
use super::crd::{Certificate, SecretRef};
use super::object::Kind;
use super::report::Report;
use super::sorted::Sorted;
use crate::model::ObjectKey;
use crate::name::HostPattern;
use crate::problem::Reason;

/// What certificates are checked against.
pub(super) struct Certificates<'a> {
    pub(super) check: CertificateCheck,
    pub(super) objects: &'a Sorted,
    /// Now, in seconds since 1970.
    pub(super) now: i64,
}

/// The host names that bound certificates are valid for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CoveredNames {
    exact: HashSet<String>,
    /// The suffixes of names like `*.example.com`.
    wildcard: HashSet<String>,
}

impl CoveredNames {
    /// Whether some certificate is valid for every name the pattern stands for. A wildcard stands
    /// for one label (RFC 6125, 6.4.3). What matches any name is not asked about.
    pub(super) fn cover(&self, pattern: &HostPattern) -> bool {
        match pattern {
            HostPattern::Exact(host) => {
                self.exact.contains(host.as_str())
                    || host
                        .parent()
                        .is_some_and(|parent| self.wildcard.contains(parent))
            }
            HostPattern::Wildcard(suffix) => self.wildcard.contains(suffix.as_str()),
            HostPattern::Any => true,
        }
    }

    fn add(&mut self, name: &str) {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        match name.strip_prefix("*.") {
            Some(suffix) => self.wildcard.insert(suffix.to_owned()),
            None => self.exact.insert(name),
        };
    }
}

impl Certificates<'_> {
    /// Checks what the Listener `owner` binds. `None` where nothing says which names are
    /// covered.
    pub(super) fn read(
        &self,
        bound: &[Certificate],
        owner: &ObjectKey,
        report: &mut Report,
    ) -> Option<CoveredNames> {
        let defaults = bound
            .iter()
            .filter(|certificate| certificate.default == Some(true))
            .count();
        if defaults > 1 {
            let what = format!("{defaults} certificates are marked as the default one");
            report.warning("spec.certificates", what, "mark one");
        }
        let named: Vec<_> = bound
            .iter()
            .enumerate()
            .map(|(index, item)| self.named(item, &format!("spec.certificates[{index}]"), report))
            .collect();
        if self.check == CertificateCheck::Ignore {
            return None;
        }
        if bound.is_empty() {
            let hint = "bind a Secret of type kubernetes.io/tls, or run with --certificates=ignore";
            report.error(
                "spec.certificates",
                "a certificate is mandatory, none is named",
                hint,
            );
            return None;
        }
        if self.check == CertificateCheck::Declared {
            return None;
        }
        let mut names = CoveredNames::default();
        for (secret, path) in named.into_iter().flatten() {
            let namespace = secret.namespace.as_ref().unwrap_or(&owner.namespace);
            let key = owner.beside(namespace, &secret.name);
            self.read_secret(&key, &path, &mut names, report);
        }
        Some(names)
    }

    /// The Secret an item names, and where it does.
    fn named(
        &self,
        item: &Certificate,
        path: &str,
        report: &mut Report,
    ) -> Option<(SecretRef, String)> {
        let strict = self.check != CertificateCheck::Ignore;
        match (&item.secret, &item.preconfigured, &item.name) {
            (Some(_), Some(_), _) => {
                let what = "names both a Secret and a preconfigured certificate";
                report.error(path, what, "name one of them");
                None
            }
            (Some(secret), None, _) => Some((secret.clone(), format!("{path}.secret"))),
            (None, Some(_), _) => {
                if self.check == CertificateCheck::Verify {
                    let what = "is a certificate on a NetScaler, which this router cannot look at";
                    let hint = "name a Secret, or run with --certificates=declared";
                    report.error(format!("{path}.preconfigured"), what, hint);
                }
                None
            }
            // As the vendor's own example is printed.
            (None, None, Some(name)) => {
                let what = format!(
                    "{name:?} stands beside secret: instead of below it; taken as its name"
                );
                let hint = format!(
                    "write `- secret:`, and on the next line `    name: {name}`, two deeper"
                );
                report.warning(format!("{path}.name"), what, &hint);
                let secret = SecretRef {
                    name: name.clone(),
                    namespace: item.namespace.clone(),
                };
                Some((secret, format!("{path}.name")))
            }
            (None, None, None) => {
                if strict {
                    report.error(
                        path,
                        "names no certificate",
                        "write secret: with name: below it",
                    );
                }
                None
            }
        }
    }

    fn read_secret(
        &self,
        key: &ObjectKey,
        path: &str,
        names: &mut CoveredNames,
        report: &mut Report,
    ) {
        let Some(secret) = self.objects.secrets.get(key) else {
            let (what, hint) = match self.objects.is_bad(Kind::Secret, key) {
                true => (
                    format!("the Secret {key} is wrong itself"),
                    "see its problems",
                ),
                false => (
                    format!("there is no Secret {key}"),
                    "add it, or run with --certificates=declared",
                ),
            };
            report.error_because(REASON, path, what, hint);
            return;
        };
        if secret.type_.as_deref() != Some(TLS_SECRET) {
            let what = match &secret.type_ {
                Some(other) => format!("the Secret {key} is of type {other:?}, not {TLS_SECRET}"),
                None => format!("the Secret {key} has no type, not {TLS_SECRET}"),
            };
            report.error_because(
                REASON,
                path,
                what,
                "create it with kubectl create secret tls",
            );
            return;
        }
        let text = secret
            .string_data
            .as_ref()
            .and_then(|data| data.get("tls.crt"));
        let bytes = secret.data.as_ref().and_then(|data| data.get("tls.crt"));
        let pem = match (text, bytes) {
            (Some(text), _) => text.as_bytes(),
            (None, Some(bytes)) => bytes.0.as_slice(),
            (None, None) => {
                let what = format!("the Secret {key} has no tls.crt");
                let hint = "create it with kubectl create secret tls";
                report.error_because(REASON, path, what, hint);
                return;
            }
        };
        if let Err(why) = self.read_pem(pem, key, path, names, report) {
            report.error_because(
                REASON,
                path,
                format!("tls.crt of the Secret {key} {why}"),
                "it holds PEM, the leaf first",
            );
        }
    }

    /// Reads the leaf, which comes first; the rest of the chain says nothing about hosts.
    fn read_pem(
        &self,
        pem: &[u8],
        key: &ObjectKey,
        path: &str,
        names: &mut CoveredNames,
        report: &mut Report,
    ) -> Result<(), &'static str> {
        let leaf = Pem::iter_from_buffer(pem)
            .next()
            .ok_or("holds no certificate")?
            .map_err(|_| "is not PEM")?;
        if leaf.label != "CERTIFICATE" {
            return Err("does not begin with a certificate");
        }
        let certificate = leaf
            .parse_x509()
            .map_err(|_| "holds no X.509 certificate")?;
        self.check_validity(&certificate, key, path, report);
        let found = dns_names(&certificate);
        if found.is_empty() {
            let what = format!("the certificate of the Secret {key} is valid for no DNS name");
            let hint = "clients look at subjectAltName only, not at the common name";
            report.warning(path, what, hint);
        }
        found.iter().for_each(|name| names.add(name));
        Ok(())
    }

    fn check_validity(
        &self,
        certificate: &X509Certificate<'_>,
        key: &ObjectKey,
        path: &str,
        report: &mut Report,
    ) {
        let validity = certificate.validity();
        if self.now > validity.not_after.timestamp() {
            let what = format!(
                "the certificate of the Secret {key} expired on {}",
                day(validity.not_after)
            );
            report.warning(path, what, "renew it");
        } else if self.now < validity.not_before.timestamp() {
            let what = format!(
                "the certificate of the Secret {key} is not valid before {}",
                day(validity.not_before)
            );
            report.warning(path, what, "check the clock of this machine");
        }
    }
}

/// As `2026-01-31`.
fn day(time: ASN1Time) -> String {
    time.to_datetime().date().to_string()
}

fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = extension.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect()
}

const TLS_SECRET: &str = "kubernetes.io/tls";

const REASON: Reason = Reason::InvalidCertificateRef;
