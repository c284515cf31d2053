//! What the clusters that share a listener must agree on, and who is right where they do not.
//!
//! Passthrough that is on in one cluster must be on in all that take part, so an object with it
//! off is the one that is wrong, however many there are: it is never served as if it were on, and
//! never keeps another one from being served. Of the rest, most clusters decide; where as many
//! say the one as the other, those of them that do not contradict themselves; then the oldest
//! object. `docs/decisions/0005-several-clusters.md` says why.

use std::collections::{BTreeMap, HashSet};

use super::compile::reference;
use super::front::Site;
use super::last_good::{Fate, Judged};
use super::listener::Terms;
use super::object::Kind;
use crate::model::{Cluster, ObjectKey};
use crate::problem::{Problem, Reason};

/// An object, and what it says.
type Member<'a> = (&'a ObjectKey, Terms);

/// The objects of one site.
#[derive(Default)]
struct Members<'a> {
    /// Of every cluster the oldest, with what it says; the oldest first.
    on: Vec<Member<'a>>,
    /// Younger ones of the same clusters, which have no vote: they can only weaken their own.
    younger: Vec<Member<'a>>,
    off: Vec<&'a ObjectKey>,
}

/// The Listeners that are refused because other clusters say something else. All sides are told.
pub(super) fn disagreeing<'a>(
    judged: &'a [Judged],
    problems: &mut Vec<Problem>,
) -> HashSet<&'a ObjectKey> {
    let mut refused = HashSet::new();
    for members in sites(judged).values() {
        tell_off(members, problems);
        let Some(right) = members.decided() else {
            continue;
        };
        let is_right = |(_, terms): &&Member<'_>| *terms == right;
        let wrong = members.on.iter().chain(&members.younger);
        let wrong: Vec<_> = wrong.filter(|member| !is_right(member)).copied().collect();
        let right: Vec<_> = members.on.iter().filter(is_right).copied().collect();
        tell_terms(&right, &wrong, problems);
        refused.extend(wrong.iter().map(|(key, _)| *key));
    }
    refused
}

/// Listeners that say they are one with those of other clusters, where more than one cluster has
/// some.
fn sites(judged: &[Judged]) -> BTreeMap<Site, Members<'_>> {
    let mut right: Vec<_> = judged
        .iter()
        .filter_map(|judged| {
            let settings = judged.settings()?;
            Some((settings.site()?, judged.subject.key.as_ref(), settings))
        })
        .collect();
    right.sort_by(|(_, _, a), (_, _, b)| a.age.cmp(&b.age));
    let mut sites: BTreeMap<Site, Members<'_>> = BTreeMap::new();
    for (site, key, settings) in right {
        let Members { on, younger, .. } = sites.entry(site).or_default();
        let is_first = on.iter().all(|(other, _)| other.cluster != key.cluster);
        let members = if is_first { on } else { younger };
        members.push((key, settings.terms));
    }
    for judged in judged {
        if let Fate::Off(off) = &judged.fate
            && let Some(members) = off.site.and_then(|site| sites.get_mut(&site))
        {
            members.off.push(judged.subject.key.as_ref());
        }
    }
    sites
}

impl Members<'_> {
    /// The terms that hold; `None` where there is only one cluster to ask.
    fn decided(&self) -> Option<Terms> {
        if self.on.len() < 2 {
            return None;
        }
        let votes = |terms: Terms| {
            let of = || self.on.iter().filter(move |(_, other)| *other == terms);
            (
                of().count(),
                of().filter(|one| self.is_of_one_mind(one)).count(),
            )
        };
        // The first of equals, which are in the order of age, is the last for `max_by_key`.
        let by_age = self.on.iter().rev();
        by_age
            .map(|(_, terms)| *terms)
            .max_by_key(|terms| votes(*terms))
    }

    /// Whether all objects of its cluster say the same.
    fn is_of_one_mind(&self, (key, terms): &Member<'_>) -> bool {
        let mut own = self
            .younger
            .iter()
            .filter(|(other, _)| other.cluster == key.cluster);
        own.all(|(_, other)| other == terms)
    }
}

fn tell_off(members: &Members<'_>, problems: &mut Vec<Problem>) {
    let elsewhere = |key: &ObjectKey, other: &ObjectKey| key.cluster != other.cluster;
    for off in &members.off {
        let on = members.on.iter().map(|(key, _)| *key);
        let on: Vec<_> = on.filter(|key| elsewhere(key, off)).collect();
        if on.is_empty() {
            continue;
        }
        let what = format!(
            "is off here and on in {}, and must be the same in every cluster, so this one is refused",
            clusters(&on)
        );
        problems.push(conflict(Problem::error, off, "spec.passthrough", what, ""));
        for key in on {
            let what = format!("is off in {off}, which is refused; this one is served");
            let hint = "set passthrough: true there, or multicluster: false";
            problems.push(conflict(
                Problem::warning,
                key,
                "spec.passthrough",
                what,
                hint,
            ));
        }
    }
}

fn tell_terms(right: &[Member<'_>], wrong: &[Member<'_>], problems: &mut Vec<Problem>) {
    let keys: Vec<_> = right.iter().map(|(key, _)| *key).collect();
    let Some((_, terms)) = right.first() else {
        return;
    };
    for (key, other) in wrong {
        let (path, says) = terms.difference(*other);
        let what = format!("{says} in {}, so this one is refused", clusters(&keys));
        let hint = "write the same in every cluster";
        problems.push(conflict(Problem::error, key, path, what, hint));
        for right in &keys {
            let (path, says) = other.difference(*terms);
            let what = format!("{says} in {key}, which is refused; this one is served");
            problems.push(conflict(Problem::warning, right, path, what, hint));
        }
    }
}

impl Terms {
    /// The first field in which `other` differs, and what these terms say of it.
    fn difference(self, other: Self) -> (&'static str, &'static str) {
        if self.is_tcp != other.is_tcp {
            let says = if self.is_tcp { "is tcp" } else { "is https" };
            return ("spec.protocol", says);
        }
        let says = match self.is_preconfigured {
            true => "name one that is preconfigured",
            false => "name Secrets only",
        };
        ("spec.certificates", says)
    }
}

fn conflict(
    severity: fn(&crate::problem::ObjectRef, &'static str, String) -> Problem,
    key: &ObjectKey,
    path: &'static str,
    what: String,
    hint: &str,
) -> Problem {
    severity(&reference(Kind::Listener, key), path, what)
        .reason(Reason::ClusterConflict)
        .hint(hint)
}

/// `the cluster east`, `the clusters east, west`
fn clusters(keys: &[&ObjectKey]) -> String {
    let mut names: Vec<_> = keys.iter().map(|key| shown(&key.cluster)).collect();
    names.sort_unstable();
    match &names[..] {
        [one] => format!("the cluster {one}"),
        many => format!("the clusters {}", many.join(", ")),
    }
}

fn shown(cluster: &Cluster) -> &str {
    match cluster.is_unnamed() {
        true => "without a name",
        false => cluster.as_str(),
    }
}
