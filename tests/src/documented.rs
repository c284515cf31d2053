//! The metrics as docs/metrics.md has them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What the document says of a metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: String,
    /// The names of its labels.
    pub labels: BTreeSet<String>,
}

impl Metric {
    /// The name that its family has: without what the kind adds to the name of a series.
    pub fn family<'n>(&self, name: &'n str) -> &'n str {
        let end = match &*self.kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        name.strip_suffix(end)
            .unwrap_or_else(|| panic!("{name} is a {}", self.kind))
    }
}

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The document.
pub fn text() -> String {
    fs::read_to_string(repository("docs/metrics.md")).expect("docs/metrics.md")
}

/// The metrics, by the names that queries have.
pub fn metrics() -> BTreeMap<String, Metric> {
    let mut found = BTreeMap::new();
    for line in text().lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let &[_, name, kind, labels, ..] = &*cells else {
            continue;
        };
        let Some(name) = name.strip_prefix('`').and_then(|it| it.strip_suffix('`')) else {
            continue;
        };
        if !["sni_router_", "process_"]
            .iter()
            .any(|it| name.starts_with(it))
        {
            continue;
        }
        let metric = Metric {
            kind: kind.to_owned(),
            labels: words(&without_parentheses(labels)),
        };
        let before = found.insert(name.to_owned(), metric);
        assert_eq!(before, None, "{name} is documented twice");
    }
    found
}

/// The values of labels are in parentheses behind them.
fn without_parentheses(text: &str) -> String {
    let mut depth = 0;
    let outside = |char: &char| {
        match char {
            '(' => depth += 1,
            ')' => {
                depth -= 1;
                return false;
            }
            _ => {}
        }
        depth == 0
    };
    text.chars().filter(outside).collect()
}

/// What stands in backticks.
fn words(text: &str) -> BTreeSet<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_without_their_values() {
        let labels = "`a` (`x`, `y`), `b` ([values](#values)), `c`";
        let expected = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(words(&without_parentheses(labels)), expected.into());
    }

    #[test]
    fn document_has_metrics_of_every_kind() {
        let metrics = metrics();
        let kinds: BTreeSet<_> = metrics.values().map(|metric| &*metric.kind).collect();
        assert_eq!(kinds, ["counter", "gauge", "histogram", "info"].into());
        let (name, labels) = ("sni_router_bytes_total", ["datapath", "direction"]);
        assert_eq!(metrics[name].labels, labels.map(str::to_owned).into());
        assert_eq!(metrics[name].family(name), "sni_router_bytes");
    }
}
