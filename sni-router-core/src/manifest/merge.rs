//! Who gets what: host patterns among Ingresses.
//!
//! In a cluster the older Ingress wins, the other is told; nobody else notices. What clusters have
//! in common is put together in [`super::union`].

use std::collections::HashMap;
use std::sync::Arc;

use super::Shadowed;
use super::age::Age;
use super::attached::Attached;
use super::backend::Services;
use super::compile::reference;
use super::facts::IngressFacts;
use super::front::{Front, Part};
use super::ingress::{Rank, Reading, Wish};
use super::last_good::Attaching;
use super::listener::DEFAULT_BACKEND;
use super::object::Kind;
use super::shadow::shadow_problem;
use super::union::{Found, union};
use crate::model::{self, Backend, Cluster, ObjectKey, Route};
use crate::name::HostPattern;
use crate::problem::{ObjectRef, Problem, Reason, Severity};

/// Puts listeners together.
pub(super) struct Merge<'a> {
    pub(super) services: &'a Services<'a>,
    pub(super) local: Option<&'a Cluster>,
    pub(super) problems: &'a mut Vec<Problem>,
    pub(super) shadowed: Vec<Shadowed>,
    /// Of every Listener object that is served, how many routes it has.
    pub(super) routes: HashMap<Arc<ObjectKey>, usize>,
    pub(super) ingresses: Vec<IngressFacts>,
}

/// A wish, and whose it is.
pub(super) struct Claim<'a> {
    pub(super) wish: &'a Wish,
    pub(super) owner: ObjectRef,
    age: &'a Age,
    /// Its place among the wishes of its owner.
    index: usize,
    /// The Ingress, and its place among those of its Listener; `None` for the Listener's own.
    ingress: Option<(usize, &'a Arc<Reading>)>,
}

impl Merge<'_> {
    /// One listener with the routes of the Ingresses that are attached to its objects.
    pub(super) fn front(&mut self, front: &Front, attached: &Attached) -> model::Listener {
        let mut found: Vec<_> = front
            .parts
            .iter()
            .flat_map(|part| self.part(front, part, attached.to(&part.key)))
            .collect();
        if found.is_empty() {
            let what = "has no route, so every connection is refused";
            let hint = "name it from an Ingress with the annotation ingress.citrix.com/listener";
            self.problems.extend(front.parts.iter().map(|part| {
                Problem::warning(&reference(Kind::Listener, &part.key), "", what).hint(hint)
            }));
        }
        let routes = match front.parts.len() {
            1 => found.into_iter().map(|found| found.route).collect(),
            _ => {
                found.sort_by(|a, b| a.route.pattern.cmp(&b.route.pattern));
                union(found, self.local, self.problems)
            }
        };
        model::Listener {
            key: front.key.clone(),
            vips: front.vips(),
            port: front.parts.first().map_or(0, |part| part.settings.port),
            routes,
        }
    }

    /// What one object of a listener routes, in the order of the patterns.
    fn part(&mut self, front: &Front, part: &Part, attached: &[Attaching]) -> Vec<Found> {
        let settings = &part.settings;
        let own = reference(Kind::Listener, &part.key);
        let default = settings.default.clone().map(|backend| Wish {
            pattern: HostPattern::Any,
            rank: Rank::ListenerDefault,
            backend,
            path: DEFAULT_BACKEND.into(),
            host_path: "spec.defaultAction.backend".into(),
        });
        let mut claims: Vec<Claim<'_>> = Vec::new();
        for (number, Attaching { subject, reading }) in attached.iter().enumerate() {
            let owner = reference(Kind::Ingress, &subject.key);
            let wishes = reading.wishes.iter().enumerate();
            claims.extend(wishes.map(|(index, wish)| Claim {
                wish,
                owner: owner.clone(),
                age: &reading.age,
                index,
                ingress: Some((number, reading)),
            }));
        }
        claims.extend(default.iter().map(|wish| Claim {
            wish,
            owner: own.clone(),
            age: &settings.age,
            index: 0,
            ingress: None,
        }));
        claims.sort_by(|a, b| {
            let order = |claim: &Claim<'_>| (claim.wish.rank, claim.index);
            (&a.wish.pattern, order(a).0, a.age, order(a).1).cmp(&(
                &b.wish.pattern,
                order(b).0,
                b.age,
                order(b).1,
            ))
        });

        let mut has_route = vec![false; attached.len()];
        let mut found: Vec<Found> = Vec::new();
        for claim in &claims {
            match found.last() {
                Some(Found { route, .. }) if route.pattern == claim.wish.pattern => {
                    self.shadow(&front.key, claim, route);
                }
                _ => {
                    if let Some((number, _)) = claim.ingress {
                        has_route[number] = true;
                    }
                    found.push(self.found(part, claim));
                }
            }
        }
        self.routes.insert(Arc::clone(&part.key), found.len());
        for (attaching, has_route) in attached.iter().zip(has_route) {
            self.ingresses.push(IngressFacts {
                subject: attaching.subject.clone(),
                vips: match has_route {
                    true => settings.vips.clone(),
                    false => Vec::new(),
                },
            });
        }
        found
    }

    fn found(&mut self, part: &Part, claim: &Claim<'_>) -> Found {
        let Claim { wish, owner, .. } = claim;
        let names = part.settings.names.as_ref();
        if names.is_some_and(|names| !names.cover(&wish.pattern)) {
            let what = format!(
                "no certificate of the Listener {} is valid for {}",
                part.key, wish.pattern
            );
            let hint = "bind one that is, or correct the host";
            self.problems
                .push(Problem::warning(owner, wish.host_path.clone(), what).hint(hint));
        }
        let endpoints = wish
            .backend
            .shares()
            .iter()
            .map(|share| {
                let resolution = self.services.resolve(&share.service, &share.port);
                if let Some(trouble) = &resolution.trouble {
                    let what = trouble.what.clone();
                    let mut problem = Problem::error(owner, wish.path.clone(), what);
                    problem.severity = trouble.severity;
                    problem.reason = match trouble.severity {
                        Severity::Error => Reason::BackendNotFound,
                        _ => Reason::BackendNotReady,
                    };
                    self.problems.push(problem.hint(trouble.hint));
                }
                resolution.endpoints.clone()
            })
            .collect();
        Found {
            route: Route {
                pattern: wish.pattern.clone(),
                backend: Backend {
                    key: wish.backend.clone(),
                    endpoints,
                },
                origin: owner.clone(),
            },
            settings: Arc::clone(&part.settings),
            ingress: claim
                .ingress
                .map(|(_, reading)| (Arc::clone(reading), claim.index)),
        }
    }

    fn shadow(&mut self, listener: &ObjectKey, claim: &Claim<'_>, winner: &Route) {
        let Claim { wish, owner, .. } = claim;
        let same_backend = winner.backend.key == wish.backend;
        if same_backend && winner.origin == *owner {
            return;
        }
        self.problems
            .push(shadow_problem(claim, winner, same_backend));
        self.shadowed.push(Shadowed {
            listener: listener.clone(),
            pattern: wish.pattern.clone(),
            backend: wish.backend.clone(),
            origin: owner.clone(),
            winner: winner.origin.clone(),
        });
    }
}
