//! Who gets what: VIPs among Listeners, host patterns among Ingresses.
//!
//! The older object wins, the other is told; nobody else notices.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::Shadowed;
use super::age::Age;
use super::annotations::LISTENER;
use super::backend::Services;
use super::compile::reference;
use super::ingress::{Rank, Reading, Wish};
use super::listener::Settings;
use super::object::Kind;
use super::path::annotation;
use super::sorted::{ById, Sorted};
use crate::model::{self, Backend, ObjectKey, Route, Vip};
use crate::name::HostPattern;
use crate::problem::{ObjectRef, Problem, Reason, Severity};

/// The Listeners that are left when every VIP and port belongs to the oldest that wants it.
///
/// "Every address" and one address on the same port are no conflict: the one address is the more
/// specific of the two.
pub(super) fn without_conflicts(
    listeners: ById<Settings>,
    problems: &mut Vec<Problem>,
) -> ById<Settings> {
    let mut by_age: Vec<_> = listeners.into_iter().collect();
    by_age.sort_by(|(_, a), (_, b)| a.age.cmp(&b.age));
    let mut owners: HashMap<(Vip, u16), Arc<ObjectKey>> = HashMap::new();
    let mut left = BTreeMap::new();
    for (key, settings) in by_age {
        let lost = settings.vips.iter().enumerate().find_map(|(index, vip)| {
            owners
                .get(&(*vip, settings.port))
                .map(|owner| (index, *vip, owner))
        });
        if let Some((index, vip, owner)) = lost {
            problems.push(vip_conflict(&key, index, vip, settings.port, owner));
            continue;
        }
        for vip in &settings.vips {
            owners.insert((*vip, settings.port), key.clone());
        }
        left.insert(key, settings);
    }
    left
}

fn vip_conflict(key: &ObjectKey, index: usize, vip: Vip, port: u16, owner: &ObjectKey) -> Problem {
    let path = match (vip, index) {
        (Vip::Any, _) => "spec.port",
        (_, 0) => "spec.vip",
        _ => "spec.secondaryVips",
    };
    let place = match vip {
        Vip::Any => format!("port {port} on every address"),
        Vip::Addr(addr) => std::net::SocketAddr::new(addr, port).to_string(),
    };
    let what = format!("{place} belongs to the older Listener {owner}, so this one is refused");
    Problem::error(&reference(Kind::Listener, key), path, what)
        .reason(Reason::AddressConflict)
        .hint("attach the Ingresses to that Listener, or use another address or port")
}

/// What an Ingress asks for, and which one it is.
type Ingress = (Arc<ObjectKey>, Arc<Reading>);

/// Ingresses by the Listener they are attached to.
pub(super) struct Attached {
    by_listener: HashMap<ObjectKey, Vec<Ingress>>,
}

impl Attached {
    /// Sorts the Ingresses to the Listeners that are served, and tells those that name another.
    pub(super) fn new(
        served: &ById<Settings>,
        objects: &Sorted,
        readings: Vec<Ingress>,
        merge: &mut Merge<'_>,
    ) -> Self {
        let mut by_listener: HashMap<_, Vec<_>> = HashMap::new();
        for (key, reading) in readings {
            if !served.contains_key(&reading.listener) {
                merge
                    .problems
                    .push(no_listener(&key, &reading.listener, objects));
                continue;
            }
            by_listener
                .entry(reading.listener.clone())
                .or_default()
                .push((key, reading));
        }
        Self { by_listener }
    }

    pub(super) fn to(&self, listener: &ObjectKey) -> &[Ingress] {
        self.by_listener.get(listener).map_or(&[], Vec::as_slice)
    }
}

fn no_listener(key: &ObjectKey, wanted: &ObjectKey, objects: &Sorted) -> Problem {
    let ingress = reference(Kind::Ingress, key);
    let path = annotation(LISTENER);
    if objects.listeners.contains_key(wanted) || objects.is_bad(Kind::Listener, wanted) {
        let what = format!("the Listener {wanted} is not served, so this is not either");
        return Problem::error(&ingress, path, what)
            .reason(Reason::ListenerRefused)
            .hint("see the problems of the Listener");
    }
    let what = format!("there is no Listener {wanted}");
    let problem = Problem::error(&ingress, path, what).reason(Reason::ListenerNotFound);
    match objects
        .listeners
        .keys()
        .find(|other| other.name == wanted.name)
    {
        Some(other) => problem.hint(format!("did you mean {other}")),
        None => problem.hint("write name, or namespace/name"),
    }
}

/// Puts listeners together.
pub(super) struct Merge<'a> {
    pub(super) services: &'a Services<'a>,
    pub(super) problems: &'a mut Vec<Problem>,
    pub(super) shadowed: Vec<Shadowed>,
}

/// A wish, and whose it is.
struct Claim<'a> {
    wish: &'a Wish,
    age: &'a Age,
    owner: ObjectRef,
    /// Its place among the wishes of its owner.
    index: usize,
}

impl Merge<'_> {
    /// One listener with the routes of the Ingresses that are attached to it.
    pub(super) fn listener(
        &mut self,
        key: &ObjectKey,
        settings: &Settings,
        attached: &[Ingress],
    ) -> model::Listener {
        let own = reference(Kind::Listener, key);
        let default = settings.default.clone().map(|backend| Wish {
            pattern: HostPattern::Any,
            rank: Rank::ListenerDefault,
            backend,
            path: "spec.defaultAction.backend.kube".into(),
            host_path: "spec.defaultAction.backend".into(),
        });
        let mut claims: Vec<Claim<'_>> = Vec::new();
        for (ingress, reading) in attached {
            let owner = reference(Kind::Ingress, ingress);
            claims.extend(
                reading
                    .wishes
                    .iter()
                    .enumerate()
                    .map(|(index, wish)| Claim {
                        wish,
                        age: &reading.age,
                        owner: owner.clone(),
                        index,
                    }),
            );
        }
        claims.extend(default.iter().map(|wish| Claim {
            wish,
            age: &settings.age,
            owner: own.clone(),
            index: 0,
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
        if claims.is_empty() {
            let what = "has no route, so every connection is refused";
            let hint = "name it from an Ingress with the annotation ingress.citrix.com/listener";
            self.problems
                .push(Problem::warning(&own, "", what).hint(hint));
        }

        let mut routes: Vec<Route> = Vec::new();
        for claim in &claims {
            match routes.last() {
                Some(winner) if winner.pattern == claim.wish.pattern => {
                    self.shadow(key, claim, winner);
                }
                _ => routes.push(self.route(key, settings, claim)),
            }
        }
        model::Listener {
            key: key.clone(),
            vips: settings.vips.clone(),
            port: settings.port,
            routes,
        }
    }

    fn route(&mut self, listener: &ObjectKey, settings: &Settings, claim: &Claim<'_>) -> Route {
        let Claim { wish, owner, .. } = claim;
        if settings
            .names
            .as_ref()
            .is_some_and(|names| !names.cover(&wish.pattern))
        {
            let what = format!(
                "no certificate of the Listener {listener} is valid for {}",
                wish.pattern
            );
            let hint = "bind one that is, or correct the host";
            self.problems
                .push(Problem::warning(owner, wish.host_path.clone(), what).hint(hint));
        }
        let key = &wish.backend;
        let resolution = self.services.resolve(&key.service, &key.port);
        if let Some(trouble) = &resolution.trouble {
            let mut problem = Problem::error(owner, wish.path.clone(), trouble.what.clone());
            problem.severity = trouble.severity;
            problem.reason = match trouble.severity {
                Severity::Error => Reason::BackendNotFound,
                _ => Reason::BackendNotReady,
            };
            self.problems.push(problem.hint(trouble.hint));
        }
        let backend = Backend {
            key: key.clone(),
            endpoints: resolution.endpoints.clone(),
        };
        Route {
            pattern: wish.pattern.clone(),
            backend,
            origin: owner.clone(),
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

fn shadow_problem(claim: &Claim<'_>, winner: &Route, same_backend: bool) -> Problem {
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
