//! The conditions of a Listener, named as in Gateway API.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition as ApiCondition, Time};

use super::{Problem, Reason, Severity, joined, message};
use crate::manifest::{ListenerFacts, crd};

/// A condition, but for when it came to be so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What it is about.
    pub kind: ConditionType,
    /// Whether it is so.
    pub holds: bool,
    /// Why, as one CamelCase word.
    pub reason: &'static str,
    /// Why, as a sentence; may be empty.
    pub message: String,
}

/// What a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionType {
    /// What the object says can be served.
    Accepted,
    /// The Secrets and Services it names are there.
    ResolvedRefs,
    /// It has become a part of the configuration as it says.
    Programmed,
    /// Something else wants the same, or the opposite.
    Conflicted,
}

impl ConditionType {
    /// As in `type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::Programmed => "Programmed",
            Self::Conflicted => "Conflicted",
        }
    }
}

pub(super) fn all(facts: &ListenerFacts, problems: &[&Problem]) -> [Condition; 4] {
    let pick = |of: &dyn Fn(&Problem) -> bool| -> Vec<&Problem> {
        problems.iter().copied().filter(|p| of(p)).collect()
    };
    let is_error = |problem: &Problem| problem.severity == Severity::Error;
    let refused = pick(&|problem| is_error(problem) && !is_about_ref(problem.reason));
    let unresolved = pick(&|problem| is_error(problem) && is_about_ref(problem.reason));
    let conflicts = pick(&|problem| is_conflict(problem.reason));
    let programmed = facts.served.as_ref().is_some_and(|served| !served.is_kept);
    let errors = pick(&is_error);
    [
        good(ConditionType::Accepted, "Accepted", &refused),
        good(ConditionType::ResolvedRefs, "ResolvedRefs", &unresolved),
        match programmed {
            true => good(ConditionType::Programmed, "Programmed", &[]),
            false => Condition {
                holds: false,
                ..good(ConditionType::Programmed, "NotServed", &errors)
            },
        },
        Condition {
            holds: !conflicts.is_empty(),
            ..good(ConditionType::Conflicted, "NoConflicts", &conflicts)
        },
    ]
}

/// A condition that holds where there is no problem.
fn good(kind: ConditionType, reason: &'static str, problems: &[&Problem]) -> Condition {
    Condition {
        kind,
        holds: problems.is_empty(),
        reason: problems
            .first()
            .map_or(reason, |problem| problem.reason.as_str()),
        message: joined(problems.iter().map(|problem| message(problem))),
    }
}

fn is_about_ref(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::InvalidCertificateRef | Reason::BackendNotFound | Reason::BackendNotReady
    )
}

fn is_conflict(reason: Reason) -> bool {
    matches!(reason, Reason::AddressConflict | Reason::ClusterConflict)
}

impl super::ListenerStatus {
    /// As the API takes it. `previous` is what the object has: a condition that is as it was keeps
    /// its time, one that changed gets `now`.
    pub fn as_api(
        &self,
        previous: Option<&crd::ListenerStatus>,
        now: &Time,
    ) -> crd::ListenerStatus {
        let before = previous
            .and_then(|previous| previous.conditions.as_deref())
            .unwrap_or_default();
        let conditions = self.conditions.iter().map(|condition| {
            let status = if condition.holds { "True" } else { "False" };
            let same = before
                .iter()
                .find(|old| old.type_ == condition.kind.as_str() && old.status == status);
            ApiCondition {
                type_: condition.kind.as_str().into(),
                status: status.into(),
                reason: condition.reason.into(),
                message: condition.message.clone(),
                observed_generation: self.subject.generation,
                last_transition_time: same.map_or(now, |old| &old.last_transition_time).clone(),
            }
        });
        crd::ListenerStatus {
            state: Some(self.state.as_str().into()),
            status_message: Some(self.status_message.clone()),
            conditions: Some(conditions.collect()),
            observed_generation: self.subject.generation,
            addresses: Some(self.addresses.clone()),
            attached_routes: i32::try_from(self.attached_routes).ok(),
        }
    }
}
