//! What is said of a route that another has the pattern of.

use super::ingress::Rank;
use super::merge::Claim;
use crate::model::Route;
use crate::name::HostPattern;
use crate::problem::{Problem, Reason};

pub(super) fn shadow_problem(claim: &Claim<'_>, winner: &Route, same_backend: bool) -> Problem {
    let Claim { wish, owner, .. } = claim;
    let path = wish.host_path.clone();
    let taken = match &wish.pattern {
        HostPattern::Any => "what matches no host".to_owned(),
        pattern => pattern.to_string(),
    };
    if winner.origin == *owner {
        let what = format!(
            "{taken} is named again, the first backend {} is used",
            winner.backend.key
        );
        return Problem::warning(owner, path, what).hint("remove one of the two");
    }
    let what = format!("{taken} belongs to {}", winner.origin);
    match wish.rank {
        _ if same_backend => Problem::note(owner, path, format!("{what}, which says the same")),
        Rank::ListenerDefault => {
            Problem::warning(owner, path, format!("{what}, so this is never used"))
        }
        Rank::IngressDefault if matches!(winner.origin.kind.as_str(), "Ingress") => {
            Problem::error(owner, path, what)
                .reason(Reason::HostConflict)
                .hint("rules come before default backends, then the older Ingress wins")
        }
        _ => Problem::error(owner, path, what)
            .reason(Reason::HostConflict)
            .hint("the older Ingress wins; remove the host from one of the two"),
    }
}
