//! A listener's routes, and which of them a host name takes.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::tally::Tally;
use crate::balance::Backend;
use crate::model::{ObjectKey, Vip};
use crate::name::{Host, HostPattern};
use crate::problem::ObjectRef;

/// Where a listener is. Shared by all tables in which it is the same, so that a connection can keep
/// it without keeping the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Front {
    /// Namespace and name of the Listener object.
    pub key: ObjectKey,
    /// The addresses it is served on.
    pub vips: Vec<Vip>,
    /// The TCP port, the same on every VIP.
    pub port: u16,
}

/// A virtual IP and port with its routes.
#[derive(Debug)]
pub struct Listener {
    /// Where it is.
    pub front: Arc<Front>,
    routes: Vec<Arc<Route>>,
    // A fast hash that does not resist flooding is enough here. Hosts that are looked up come
    // from anybody, but a look-up adds nothing: the keys come from the configuration, and they
    // cannot be chosen to collide either, because the hash is seeded when the table is made.
    exact: HashMap<Box<str>, Arc<Route>, RandomState>,
    /// By suffix, without the `*.`.
    wildcard: HashMap<Box<str>, Arc<Route>, RandomState>,
    any: Option<Arc<Route>>,
}

impl Listener {
    pub(super) fn new(front: Arc<Front>, routes: Vec<Arc<Route>>) -> Self {
        let mut exact = HashMap::with_capacity_and_hasher(routes.len(), RandomState::default());
        let mut wildcard = HashMap::default();
        let mut any = None;
        for route in &routes {
            let shared = || Arc::clone(route);
            match &route.pattern {
                HostPattern::Exact(name) => {
                    exact.entry(name.as_str().into()).or_insert_with(shared);
                }
                HostPattern::Wildcard(suffix) => {
                    wildcard
                        .entry(suffix.as_str().into())
                        .or_insert_with(shared);
                }
                HostPattern::Any => {
                    any.get_or_insert_with(shared);
                }
            }
        }
        Self {
            front,
            routes,
            exact,
            wildcard,
            any,
        }
    }

    /// The route that a hello for `host` takes: an exact one, else a wildcard, else the one for
    /// whatever is left. A hello without a server name (`None`) can only take the last.
    pub fn route(&self, host: Option<&Host>) -> Option<&Arc<Route>> {
        host.and_then(|host| {
            self.exact.get(host.as_str()).or_else(|| {
                // A wildcard stands for exactly one label, so at most one suffix can match and
                // there is no longest one to look for.
                self.wildcard.get(host.parent()?)
            })
        })
        .or(self.any.as_ref())
    }

    /// All routes, in the model's order.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = &Arc<Route>> {
        self.routes.iter()
    }
}

/// A host pattern and the backend its connections go to.
#[derive(Debug)]
pub struct Route {
    /// The names it takes.
    pub pattern: HostPattern,
    /// The object that says so: an Ingress, or the Listener for its `defaultAction`.
    pub origin: ObjectRef,
    /// Where they go.
    pub backend: Arc<Backend>,
    /// How many took it. The same in all tables that have the route.
    pub tally: Arc<Tally>,
}
