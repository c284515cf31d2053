//! Which namespaces' Ingresses a Listener takes: annotations of the Listener.

use std::collections::{BTreeMap, BTreeSet};

use kube::core::{Expression, Selector, SelectorExt as _};

use super::names::is_object_name;
use super::path::annotation;
use super::report::Report;

/// The namespaces whose Ingresses may attach.
#[derive(Clone, Debug, Default)]
pub(super) struct Allowed {
    /// `None`: nothing is said about names.
    names: Option<BTreeSet<String>>,
    /// `None`: nothing is said about labels.
    selector: Option<Selector>,
}

impl Allowed {
    /// Reads the annotations. What cannot be read is an error: a Listener that seems restricted
    /// must not be open.
    pub(super) fn read(annotations: &BTreeMap<String, String>, report: &mut Report) -> Self {
        let names = annotations.get(NAMES).map(|text| names(text, report));
        let selector = annotations.get(SELECTOR).map(|text| selector(text, report));
        Self { names, selector }
    }

    /// Whether Ingresses of a namespace may attach. `labels` are the namespace's, as far as there
    /// is an object that says them.
    pub(super) fn allows(
        &self,
        namespace: &str,
        labels: Option<&BTreeMap<String, String>>,
    ) -> bool {
        let named = |names: &BTreeSet<String>| names.contains("*") || names.contains(namespace);
        let selected = |selector: &Selector| labels.is_some_and(|labels| selector.matches(labels));
        match (&self.names, &self.selector) {
            (None, None) => true,
            (names, selector) => {
                names.as_ref().is_some_and(named) || selector.as_ref().is_some_and(selected)
            }
        }
    }
}

/// `shop,billing`, or `*` for all.
fn names(text: &str, report: &mut Report) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for item in text.split(',').map(str::trim) {
        if item == "*" || is_object_name(item) {
            names.insert(item.to_owned());
        } else {
            let what = format!("{item:?} cannot be the name of a namespace");
            report.error(annotation(NAMES), what, "write names with commas between");
        }
    }
    names
}

/// `team=edge,stage!=test,public,!frozen`, as `kubectl -l` takes it but for sets.
fn selector(text: &str, report: &mut Report) -> Selector {
    let mut selector = Selector::default();
    for item in text.split(',').map(str::trim) {
        match expression(item) {
            Some(expression) => drop(selector.extend([expression])),
            None => {
                let what = format!("{item:?} is no requirement of a label");
                let hint = "write KEY=VALUE, KEY!=VALUE, KEY or !KEY, with commas between";
                report.error(annotation(SELECTOR), what, hint);
            }
        }
    }
    selector
}

fn expression(text: &str) -> Option<Expression> {
    let key = |text: &str| is_label_key(text.trim()).then(|| text.trim().to_owned());
    let value = |text: &str| is_label_value(text.trim()).then(|| text.trim().to_owned());
    if let Some((name, wanted)) = text.split_once("!=") {
        return Some(Expression::NotEqual(key(name)?, value(wanted)?));
    }
    if let Some((name, wanted)) = text.split_once('=') {
        let wanted = wanted.strip_prefix('=').unwrap_or(wanted);
        return Some(Expression::Equal(key(name)?, value(wanted)?));
    }
    match text.strip_prefix('!') {
        Some(name) => Some(Expression::DoesNotExist(key(name)?)),
        None => Some(Expression::Exists(key(text)?)),
    }
}

/// A name, or a DNS name and a name with `/` between.
fn is_label_key(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').unwrap_or(("x", text));
    is_object_name(prefix) && !name.is_empty() && is_label_value(name)
}

/// At most 63 letters, digits, `-`, `_` and `.`.
fn is_label_value(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    text.len() <= 63 && text.bytes().all(inside)
}

pub(super) const NAMES: &str = "sni-router.io/allowed-namespaces";
pub(super) const SELECTOR: &str = "sni-router.io/allowed-namespace-selector";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::ObjectRef;

    fn read(names: &str, selector: &str) -> (Allowed, usize) {
        let annotations = [(NAMES, names), (SELECTOR, selector)]
            .into_iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .collect();
        let mut report = Report::new(ObjectRef::file("x"));
        let allowed = Allowed::read(&annotations, &mut report);
        (allowed, report.into_problems().len())
    }

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn every_namespace_is_allowed_when_nothing_is_said() {
        assert!(read("", "").0.allows("any", None));
    }

    #[test]
    fn only_named_namespaces_are_allowed_when_names_are_given() {
        let (allowed, _) = read("shop, billing", "");
        assert!(allowed.allows("shop", None) && allowed.allows("billing", None));
        assert!(!allowed.allows("shop-v2", None) && !allowed.allows("", None));
        assert!(read("*", "").0.allows("any", None));
    }

    #[test]
    fn labels_decide_when_a_selector_is_given() {
        let (allowed, problems) = read("", "team=edge, stage!=test,public,!frozen");
        assert_eq!(problems, 0);
        let allows = |text: &str| allowed.allows("x", Some(&labels(text)));
        assert!(allows("team=edge,public=yes"));
        assert!(!allows("team=edge"));
        assert!(!allows("team=edge,public=yes,stage=test"));
        assert!(!allows("team=edge,public=yes,frozen=no"));
        assert!(
            !allowed.allows("x", None),
            "a namespace nobody describes has no labels that could be right"
        );
    }

    #[test]
    fn name_or_label_is_enough_when_both_are_given() {
        let (allowed, _) = read("shop", "team=edge");
        assert!(allowed.allows("shop", None));
        assert!(allowed.allows("x", Some(&labels("team=edge"))));
        assert!(!allowed.allows("x", Some(&labels("team=other"))));
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for (names, selector) in [
            ("Shop", ""),
            ("shop,,billing", ""),
            (" ", ""),
            ("", "team in (a)"),
            ("", "=a"),
            ("", "team=a b"),
            ("", "a/b/c=d"),
        ] {
            assert!(read(names, selector).1 > 0, "{names:?} {selector:?}");
        }
    }
}
