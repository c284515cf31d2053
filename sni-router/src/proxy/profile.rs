//! What connections have in common, kept once for all that have the same.

use std::array;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use hashbrown::HashTable;
use sni_router_core::name::Host;
use sni_router_core::table::{Front, Route};

use super::facts::HelloFacts;
use crate::carry::Decline;

/// What many connections have in common.
#[derive(Clone, Default)]
pub(super) struct Profile {
    /// Its addresses are ours as long as somebody knows of it.
    pub(super) listener: Option<Arc<Front>>,
    pub(super) host: Option<Host>,
    pub(super) route: Option<Arc<Route>>,
    pub(super) hello: Option<Arc<HelloFacts>>,
    pub(super) declined: Option<Decline>,
    pub(super) retries: u32,
    pub(super) failed: Box<str>,
}

impl Profile {
    /// What makes two the same. A listener and a route are themselves, not what they say: each table has its
    /// own.
    fn identity(&self) -> impl Hash + Eq {
        let listener = self.listener.as_ref().map(|it| Arc::as_ptr(it).addr());
        let route = self.route.as_ref().map(|it| Arc::as_ptr(it).addr());
        (
            (listener, route, self.declined, self.retries),
            (&self.host, &self.hello, &self.failed),
        )
    }
}

/// Profiles that connections have now.
pub(super) struct Profiles {
    /// Which one a profile is in, its hash says. It takes long to look through a million.
    shards: [Mutex<Shard>; SHARDS],
    /// By chance, since names are chosen by clients.
    hasher: RandomState,
}

#[derive(Default)]
struct Shard {
    /// With their hashes.
    profiles: HashTable<(u64, Weak<Profile>)>,
    /// How often somebody may ask before those are thrown out that nobody has any more.
    credit: usize,
}

impl Profiles {
    /// The same, as it is kept.
    pub(super) fn of(&self, profile: Profile) -> Arc<Profile> {
        let hash = self.hasher.hash_one(profile.identity());
        let mut shard = self.shard(hash);
        shard.throw_out();
        let profiles = &mut shard.profiles;
        let mut found = None;
        let is_same = |other: &Arc<Profile>| other.identity() == profile.identity();
        profiles.find(hash, |(other, kept)| {
            if *other == hash {
                found = kept.upgrade().filter(is_same);
            }
            found.is_some()
        });
        if let Some(found) = found {
            return found;
        }
        let profile = Arc::new(profile);
        let new = Arc::downgrade(&profile);
        // The place of one like it that nobody has any more, or else there may be many of those.
        match profiles.find_mut(hash, is_gone(hash)) {
            Some((_, kept)) => *kept = new,
            None => {
                profiles.insert_unique(hash, (hash, new), |(hash, _)| *hash);
            }
        }
        profile
    }

    /// A connection is over that had it. Where two that had it are over at the same moment, it may be left to
    /// be thrown out.
    pub(super) fn give_back(&self, profile: Arc<Profile>) {
        if Arc::strong_count(&profile) > 1 {
            return;
        }
        let hash = self.hasher.hash_one(profile.identity());
        drop(profile);
        if let Ok(gone) = self.shard(hash).profiles.find_entry(hash, is_gone(hash)) {
            gone.remove();
        }
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // The table goes by the first bits and the last ones.
        let shard = &self.shards[(hash >> 32) as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Profiles {
    fn default() -> Self {
        Self {
            shards: array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }
    }
}

impl Shard {
    /// Throws out what nobody has any more, now and then.
    fn throw_out(&mut self) {
        if let Some(less) = self.credit.checked_sub(1) {
            self.credit = less;
            return;
        }
        self.profiles.retain(|(_, kept)| kept.strong_count() > 0);
        // As many as there are now, so that each that asks pays for looking at one or two.
        self.credit = self.profiles.len().max(FEW);
        let most = 2 * self.credit;
        self.profiles.shrink_to(most, |(hash, _)| *hash);
    }
}

/// Whether nobody has one of this hash any more.
fn is_gone(hash: u64) -> impl Fn(&(u64, Weak<Profile>)) -> bool {
    move |(other, kept)| *other == hash && kept.strong_count() == 0
}

/// A million profiles are looked through in so many parts.
const SHARDS: usize = 64;

/// Profiles of which it does not matter whether anybody has them.
const FEW: usize = 16;

#[cfg(test)]
mod tests {
    use sni_router_core::model::{self, BackendKey, Listener, Method, Model, ObjectKey, Vip};
    use sni_router_core::problem::ObjectRef;
    use sni_router_core::table::RouteTable;

    use super::*;

    impl Profiles {
        fn known(&self) -> usize {
            let shards = self.shards.iter();
            shards.map(|it| it.lock().unwrap().profiles.len()).sum()
        }
    }

    /// A thousand of them that somebody has.
    fn many(profiles: &Profiles) -> Vec<Arc<Profile>> {
        let all = (0..1000).map(|number| to(&format!("{number}.example.com")));
        all.map(|profile| profiles.of(profile)).collect()
    }

    fn to(host: &str) -> Profile {
        Profile {
            host: Some(host.parse().expect("a host")),
            ..Profile::default()
        }
    }

    #[test]
    fn profile_is_kept_once_as_long_as_somebody_has_it() {
        let profiles = Profiles::default();
        let first = profiles.of(to("www.example.com"));
        assert!(Arc::ptr_eq(&first, &profiles.of(to("www.example.com"))));
        assert!(!Arc::ptr_eq(&first, &profiles.of(to("example.com"))));
        let others: [fn(&mut Profile); 5] = [
            |profile| profile.retries = 1,
            |profile| profile.failed = "10.0.0.1:443".into(),
            |profile| profile.declined = Some(Decline::NoPort),
            |profile| profile.host = None,
            |profile| {
                profile.listener = Some(Arc::new(Front {
                    key: ObjectKey::default(),
                    vips: Vec::new(),
                    port: 443,
                }));
            },
        ];
        for change in others {
            let mut profile = to("www.example.com");
            change(&mut profile);
            assert!(!Arc::ptr_eq(&first, &profiles.of(profile)));
        }
        let gone = Arc::downgrade(&first);
        drop(first);
        assert!(gone.upgrade().is_none());
    }

    #[test]
    fn hellos_that_say_the_same_are_the_same_whoever_has_read_them() {
        let profiles = Profiles::default();
        let of = |ech| {
            profiles.of(Profile {
                hello: Some(Arc::new(HelloFacts {
                    tls13: true,
                    ech,
                    ja4: None,
                    alpn: "h2".into(),
                    versions: "1.3".into(),
                })),
                ..to("www.example.com")
            })
        };
        let first = of(true);
        assert!(Arc::ptr_eq(&first, &of(true)));
        assert!(!Arc::ptr_eq(&first, &of(false)));
    }

    #[test]
    fn route_of_each_table_is_its_own_and_goes_along() {
        let profiles = Profiles::default();
        let mut kept = Vec::new();
        for generation in 1..=2 {
            let route = route(generation);
            for _ in 0..2 {
                kept.push(profiles.of(Profile {
                    route: Some(Arc::clone(&route)),
                    ..to("www.example.com")
                }));
            }
            let last = kept.last().and_then(|profile| profile.route.as_ref());
            assert!(last.is_some_and(|last| Arc::ptr_eq(last, &route)));
        }
        let same = |a: usize, b: usize| Arc::ptr_eq(&kept[a], &kept[b]);
        assert!(same(0, 1) && same(2, 3) && !same(0, 2));
    }

    /// The only one of a table.
    fn route(generation: u64) -> Arc<Route> {
        let backend = model::Backend {
            key: BackendKey::of(ObjectKey::default(), "443", Method::default()),
            endpoints: vec![Vec::new()],
        };
        let model = Model {
            listeners: vec![Listener {
                key: ObjectKey::default(),
                vips: vec![Vip::Any],
                port: 443,
                routes: vec![model::Route {
                    pattern: "".parse().expect("any"),
                    backend,
                    origin: ObjectRef::default(),
                }],
            }],
            ..Model::default()
        };
        let table = RouteTable::compile(&model, generation, None);
        let listener = table.listeners().next().expect("a listener");
        Arc::clone(listener.route(None).expect("a route"))
    }

    #[test]
    fn profile_that_comes_and_goes_takes_one_place() {
        let profiles = Profiles::default();
        let kept = many(&profiles);
        for _ in 0..900 {
            profiles.of(to("www.example.com"));
        }
        assert_eq!(profiles.known(), kept.len() + 1);
        for profile in kept {
            profiles.give_back(Arc::clone(&profile));
            profiles.give_back(profile);
        }
        assert_eq!(profiles.known(), 1, "nobody has given that one back");
    }

    #[test]
    fn profiles_that_nobody_has_are_forgotten() {
        let profiles = Profiles::default();
        let kept = many(&profiles);
        for number in 0..20_000 {
            profiles.of(to(&format!("{number}.example.net")));
        }
        let most = kept.len() + 4 * FEW * SHARDS;
        let known = profiles.known();
        assert!((kept.len()..most).contains(&known), "{known}");
        for (one, same) in kept.iter().zip(many(&profiles)) {
            assert!(Arc::ptr_eq(one, &same));
        }
    }
}
