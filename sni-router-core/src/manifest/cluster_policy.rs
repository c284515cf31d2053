//! How the clusters that have the same host share its connections: annotations of a Listener or
//! an Ingress.

use std::collections::BTreeMap;

use super::path::annotation;
use super::report::Report;
use crate::model::Cluster;

/// Which clusters come first, and how much each of them gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ClusterPolicy {
    preference: Preference,
    /// For [`Preference::Failover`].
    order: Vec<Cluster>,
    /// Empty: every cluster gets as much as it has endpoints. A cluster that is not named has 1.
    weights: BTreeMap<Cluster, u16>,
}

/// Which clusters come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Preference {
    /// None.
    #[default]
    Spread,
    /// The router's own.
    Local,
    /// Those of a list, in its order; then the others together.
    Failover,
}

/// Where a cluster stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) tier: u16,
    pub(super) weight: Option<u16>,
}

impl ClusterPolicy {
    /// Reads the annotations; `None` if none of them is there.
    ///
    /// A wrong policy is a warning: connections are served with the default.
    pub(super) fn read(
        annotations: &BTreeMap<String, String>,
        report: &mut Report,
    ) -> Option<Self> {
        let of = |name: &str| annotations.get(name).map(|text| text.trim());
        let (policy, order, weights) = (of(POLICY), of(ORDER), of(WEIGHTS));
        if policy.is_none() && order.is_none() && weights.is_none() {
            return None;
        }
        let preference = policy.map_or(Preference::Spread, |text| preference(text, report));
        let order = order.map_or(Vec::new(), |text| names(text, report));
        match (preference, order.is_empty()) {
            (Preference::Failover, true) => report.warning(
                annotation(POLICY),
                "is failover and no cluster comes first, so all are used",
                "write sni-router.io/cluster-order: FIRST,SECOND",
            ),
            (Preference::Spread | Preference::Local, false) => report.warning(
                annotation(ORDER),
                "has no effect without the policy failover",
                "write sni-router.io/cluster-policy: failover",
            ),
            _ => {}
        }
        Some(Self {
            preference,
            order,
            weights: weights.map_or_else(BTreeMap::new, |text| self::weights(text, report)),
        })
    }

    /// Where a cluster stands among those that share a host. `local` is the router's own.
    pub(super) fn standing(&self, cluster: &Cluster, local: Option<&Cluster>) -> Standing {
        let place = match self.preference {
            Preference::Spread => 0,
            Preference::Local => usize::from(local.is_some_and(|local| local != cluster)),
            Preference::Failover => {
                let named = self.order.iter().position(|named| named == cluster);
                named.unwrap_or(self.order.len())
            }
        };
        let weight = match self.weights.is_empty() {
            true => None,
            false => Some(self.weights.get(cluster).copied().unwrap_or(1)),
        };
        Standing {
            tier: u16::try_from(place).unwrap_or(u16::MAX),
            weight,
        }
    }

    /// Whether it says something only to a router that knows its own cluster.
    pub(super) fn needs_local(&self) -> bool {
        self.preference == Preference::Local
    }
}

fn preference(text: &str, report: &mut Report) -> Preference {
    match text {
        "spread" => Preference::Spread,
        "prefer-local" => Preference::Local,
        "failover" => Preference::Failover,
        _ => {
            let what = format!("{text:?} is no policy, so spread is used");
            let hint = "write spread, prefer-local or failover";
            report.warning(annotation(POLICY), what, hint);
            Preference::Spread
        }
    }
}

/// `east,west`
fn names(text: &str, report: &mut Report) -> Vec<Cluster> {
    let mut names = Vec::new();
    for item in text.split(',').map(str::trim) {
        match item.parse() {
            Ok(name) if !names.contains(&name) => names.push(name),
            Ok(name) => report.warning(annotation(ORDER), format!("{name} is there twice"), ""),
            Err(error) => report.warning(annotation(ORDER), format!("{item:?} {error}"), ""),
        }
    }
    names
}

/// `east=3,west=1`
fn weights(text: &str, report: &mut Report) -> BTreeMap<Cluster, u16> {
    let mut weights = BTreeMap::new();
    for item in text.split(',').map(str::trim) {
        let (name, weight) = item.split_once('=').unwrap_or((item, ""));
        match (name.trim().parse::<Cluster>(), weight.trim().parse()) {
            (Ok(name), Ok(weight)) => {
                if weights.insert(name, weight).is_some() {
                    report.warning(annotation(WEIGHTS), format!("{item:?} is the second"), "");
                }
            }
            _ => report.warning(
                annotation(WEIGHTS),
                format!("{item:?} is not a cluster's weight"),
                "write NAME=NUMBER, with numbers from 0 to 65535",
            ),
        }
    }
    weights
}

pub(super) const POLICY: &str = "sni-router.io/cluster-policy";
pub(super) const ORDER: &str = "sni-router.io/cluster-order";
pub(super) const WEIGHTS: &str = "sni-router.io/cluster-weights";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::ObjectRef;

    fn read(texts: [&str; 3]) -> (Option<ClusterPolicy>, usize) {
        let annotations = [POLICY, ORDER, WEIGHTS]
            .into_iter()
            .zip(texts)
            .filter(|(_, text)| !text.is_empty())
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .collect();
        let mut report = Report::new(ObjectRef::file("x"));
        let policy = ClusterPolicy::read(&annotations, &mut report);
        (policy, report.into_problems().len())
    }

    fn standings(texts: [&str; 3], local: &str) -> Vec<(u16, Option<u16>)> {
        let policy = read(texts).0.unwrap();
        let local = local.parse().ok();
        ["a", "b", "c"]
            .map(|name| policy.standing(&name.parse().unwrap(), local.as_ref()))
            .map(|standing| (standing.tier, standing.weight))
            .to_vec()
    }

    #[test]
    fn policy_is_absent_without_annotations() {
        assert_eq!(read(["", "", ""]), (None, 0));
    }

    #[test]
    fn local_cluster_comes_first_when_it_is_known() {
        let tiers = standings(["prefer-local", "", ""], "b");
        assert_eq!(tiers, [(1, None), (0, None), (1, None)]);
        let tiers = standings(["prefer-local", "", ""], "");
        assert_eq!(tiers, [(0, None), (0, None), (0, None)]);
    }

    #[test]
    fn clusters_that_are_not_named_come_last_in_a_failover() {
        let tiers = standings(["failover", "c, a", "c=3"], "");
        assert_eq!(tiers, [(1, Some(1)), (2, Some(1)), (0, Some(3))]);
    }

    #[test]
    fn wrong_policy_is_a_warning_and_the_rest_counts() {
        for texts in [
            ["nearest", "", ""],
            ["failover", "", ""],
            ["failover", "A,b", ""],
            ["failover", "b,b", ""],
            ["spread", "a", ""],
            ["", "", "a=1,b"],
            ["", "", "a=65536"],
            ["", "", "a=1,a=2"],
        ] {
            assert_eq!(read(texts).1, 1, "{texts:?}");
        }
    }
}
