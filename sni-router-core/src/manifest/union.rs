//! What several clusters route: one route a host, whose connections they share.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::age::Age;
use super::cluster_policy::ClusterPolicy;
use super::ingress::Reading;
use super::listener::{DEFAULT_BACKEND, Settings};
use crate::model::{Backend, BackendKey, Cluster, Route, Share};
use crate::problem::Problem;

/// A route of one cluster, and who asked for it.
pub(super) struct Found {
    pub(super) route: Route,
    pub(super) settings: Arc<Settings>,
    /// The Ingress, and the place of the wish in it; `None` for the Listener's own.
    pub(super) ingress: Option<(Arc<Reading>, usize)>,
}

impl Found {
    fn age(&self) -> &Age {
        let reading = self.ingress.as_ref().map(|(reading, _)| &reading.age);
        reading.unwrap_or(&self.settings.age)
    }

    fn policy(&self) -> Option<&ClusterPolicy> {
        let own = self.ingress.as_ref();
        own.and_then(|(reading, _)| reading.policy.as_ref())
            .or(self.settings.policy.as_ref())
    }

    /// The field that names the backend.
    fn path(&self) -> &str {
        let wish = self.ingress.as_ref();
        let wish = wish.and_then(|(reading, index)| reading.wishes.get(*index));
        wish.map_or(DEFAULT_BACKEND, |wish| &wish.path)
    }
}

/// One route for every pattern. `found` is sorted by pattern; `local` is the router's own cluster.
pub(super) fn union(
    found: Vec<Found>,
    local: Option<&Cluster>,
    problems: &mut Vec<Problem>,
) -> Vec<Route> {
    let same_pattern = |a: &Found, b: &Found| a.route.pattern == b.route.pattern;
    found
        .chunk_by(same_pattern)
        .map(|same| match same {
            [alone] => alone.route.clone(),
            _ => one(same, local, problems),
        })
        .collect()
}

/// The route of one pattern: as the oldest object wants it, with the endpoints of all.
fn one(same: &[Found], local: Option<&Cluster>, problems: &mut Vec<Problem>) -> Route {
    let mut same: Vec<_> = same.iter().collect();
    same.sort_by_key(|found| found.age());
    let lead = same[0];
    let spread = ClusterPolicy::default();
    let terms = |found: &Found| {
        let method = found.route.backend.key.method;
        (method, found.policy().unwrap_or(&spread).clone())
    };
    let (method, policy) = terms(lead);
    for other in same
        .iter()
        .filter(|other| terms(other) != (method, policy.clone()))
    {
        let what = format!(
            "the method and cluster policy are those of {}, which is older",
            lead.route.origin
        );
        let problem = Problem::warning(&other.route.origin, other.path(), what);
        problems.push(problem.hint("write the same in every cluster"));
    }
    if policy.needs_local() && local.is_none() {
        let what = "no cluster is preferred: the router was not told which one is its own";
        let problem = Problem::warning(&lead.route.origin, "", what);
        problems.push(problem.hint("run it with --local-cluster"));
    }
    let mut shares = shares(&same, &policy, local);
    if shares.is_empty() {
        let what = "every cluster that has the host has the weight 0, so all are used alike";
        problems.push(Problem::warning(&lead.route.origin, "", what));
        shares = self::shares(&same, &spread, local);
    }
    let endpoints = endpoints(&shares, problems);
    let shares = shares.into_iter().map(|(share, _)| share).collect();
    Route {
        pattern: lead.route.pattern.clone(),
        backend: Backend {
            key: BackendKey::shared(shares, method),
            endpoints,
        },
        origin: lead.route.origin.clone(),
    }
}

/// What each cluster gives, the first tier first; a cluster of weight 0 gives nothing.
fn shares<'a>(
    same: &[&'a Found],
    policy: &ClusterPolicy,
    local: Option<&Cluster>,
) -> Vec<(Share, &'a Found)> {
    let mut shares: Vec<_> = same
        .iter()
        .flat_map(|found| {
            found
                .route
                .backend
                .key
                .shares()
                .iter()
                .map(move |of| (of, *found))
        })
        .map(|(share, found)| {
            let standing = policy.standing(&share.service.cluster, local);
            let share = Share {
                tier: standing.tier,
                weight: standing.weight,
                ..share.clone()
            };
            (share, found)
        })
        .filter(|(share, _)| share.weight != Some(0))
        .collect();
    shares.sort_by(|(a, _), (b, _)| (a.tier, &a.service).cmp(&(b.tier, &b.service)));
    shares
}

/// The endpoints of each share. An address is an endpoint of the first share that has it only:
/// the same address in two clusters is reached in one of them at most.
fn endpoints(shares: &[(Share, &Found)], problems: &mut Vec<Problem>) -> Vec<Vec<SocketAddr>> {
    let mut owners: HashMap<SocketAddr, &Cluster> = HashMap::new();
    let mut endpoints = Vec::new();
    for (share, found) in shares {
        let cluster = &share.service.cluster;
        let mut twice = None;
        let own = found.route.backend.endpoints.iter().flatten().copied();
        let own = own.filter(|addr| {
            let owner = *owners.entry(*addr).or_insert(cluster);
            twice = twice.or((owner != cluster).then_some((*addr, owner)));
            owner == cluster
        });
        endpoints.push(own.collect());
        if let Some((addr, owner)) = twice {
            let what =
                format!("{addr} is an endpoint in the cluster {owner} too, and is left out here");
            let problem = Problem::warning(&found.route.origin, found.path(), what);
            problems.push(problem.hint("give the clusters' pods different networks"));
        }
    }
    endpoints
}
