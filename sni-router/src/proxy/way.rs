//! The way that connections take through the router, kept once for all that take the same.

use std::hash::{BuildHasher as _, Hash, Hasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use hashbrown::HashTable;
use sni_router_core::name::Host;
use sni_router_core::table::{Front, Route};

use super::facts::HelloFacts;
use crate::carry::Decline;

/// What many connections have in common.
#[derive(Default)]
pub(super) struct Way {
    /// Its addresses are ours as long as somebody knows of it.
    pub(super) listener: Option<Arc<Front>>,
    pub(super) host: Option<Host>,
    pub(super) route: Option<Arc<Route>>,
    pub(super) hello: Option<Arc<HelloFacts>>,
    pub(super) declined: Option<Decline>,
    pub(super) retries: u32,
    pub(super) failed: Box<str>,
}

impl Way {
    /// Whether it is the same, down to the objects that it goes by.
    fn is(&self, other: &Self) -> bool {
        self.objects() == other.objects()
            && self.host == other.host
            && self.declined == other.declined
            && self.retries == other.retries
            && self.failed == other.failed
    }

    /// Where its objects are.
    fn objects(&self) -> [usize; 3] {
        [
            self.listener
                .as_ref()
                .map_or(0, |it| Arc::as_ptr(it).addr()),
            self.route.as_ref().map_or(0, |it| Arc::as_ptr(it).addr()),
            self.hello.as_ref().map_or(0, |it| Arc::as_ptr(it).addr()),
        ]
    }
}

/// Ways that connections take now.
#[derive(Default)]
pub(super) struct Ways {
    known: Mutex<HashTable<(u64, Weak<Way>)>>,
    /// By chance, since names are chosen by clients.
    hasher: RandomState,
}

impl Ways {
    /// The same way, as it is kept.
    pub(super) fn of(&self, way: Way) -> Arc<Way> {
        let mut hasher = self.hasher.build_hasher();
        (way.objects(), &way.host).hash(&mut hasher);
        let hash = hasher.finish();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        // A way that is no more is at the same place as its like, but is none.
        known.find(hash, |(_, other)| {
            found = other.upgrade().filter(|other| other.is(&way));
            found.is_some()
        });
        found.unwrap_or_else(|| {
            if known.len() == known.capacity() {
                // As many may come as there are now before anybody looks again.
                known.retain(|(_, way)| way.strong_count() > 0);
                let more = known.len() + 1;
                known.shrink_to(2 * more, |(hash, _)| *hash);
                known.reserve(more, |(hash, _)| *hash);
            }
            let way = Arc::new(way);
            known.insert_unique(hash, (hash, Arc::downgrade(&way)), |(hash, _)| *hash);
            way
        })
    }
}

#[cfg(test)]
mod tests {
    use sni_router_core::model::ObjectKey;

    use super::*;

    fn to(host: &str) -> Way {
        Way {
            host: Some(host.parse().expect("a host")),
            ..Way::default()
        }
    }

    #[test]
    fn way_is_kept_once_as_long_as_somebody_takes_it() {
        let ways = Ways::default();
        let first = ways.of(to("www.example.com"));
        assert!(Arc::ptr_eq(&first, &ways.of(to("www.example.com"))));
        assert!(!Arc::ptr_eq(&first, &ways.of(to("example.com"))));
        let others: [fn(&mut Way); 5] = [
            |way| way.retries = 1,
            |way| way.failed = "10.0.0.1:443".into(),
            |way| way.declined = Some(Decline::NoPort),
            |way| way.host = None,
            |way| {
                way.listener = Some(Arc::new(Front {
                    key: ObjectKey::default(),
                    vips: Vec::new(),
                    port: 443,
                }));
            },
        ];
        for change in others {
            let mut way = to("www.example.com");
            change(&mut way);
            assert!(!Arc::ptr_eq(&first, &ways.of(way)));
        }
        let gone = Arc::downgrade(&first);
        drop(first);
        assert!(gone.upgrade().is_none());
    }

    #[test]
    fn ways_that_nobody_takes_are_forgotten() {
        let ways = Ways::default();
        let kept: Vec<_> = (0..100)
            .map(|number| ways.of(to(&format!("{number}.example.com"))))
            .collect();
        for number in 0..20_000 {
            ways.of(to(&format!("{number}.example.net")));
        }
        let known = ways.known.lock().unwrap().len();
        assert!((100..1000).contains(&known), "{known}");
        for (number, way) in kept.iter().enumerate() {
            let same = ways.of(to(&format!("{number}.example.com")));
            assert!(Arc::ptr_eq(way, &same));
        }
    }
}
