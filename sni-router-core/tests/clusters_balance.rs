//! Which cluster a connection meets, where several have its host.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use sni_router_core::balance::{Backend, Endpoint};
use sni_router_core::model::{
    self, BackendKey, Listener, Method, Model, ObjectKey, Route, Share, Vip,
};
use sni_router_core::problem::ObjectRef;
use sni_router_core::table::RouteTable;

const METHODS: [Method; 3] = [
    Method::RoundRobin,
    Method::LeastConnection,
    Method::SourceIpHash,
];

/// As long as a cluster that goes on failing is passed over.
const PAUSE: Duration = Duration::from_secs(10);

/// A cluster's tier, weight and number of endpoints.
type Part = (u16, Option<u16>, u16);

/// The model of one route that clusters `a`, `b`, … share.
fn model(method: Method, parts: &[Part]) -> Model {
    let shares = parts.iter().enumerate().map(|(index, part)| Share {
        service: ObjectKey {
            cluster: name(index).parse().unwrap(),
            namespace: "default".into(),
            name: "app".into(),
        },
        port: "443".into(),
        tier: part.0,
        weight: part.1,
    });
    let backend = model::Backend {
        key: BackendKey::shared(shares.collect(), method),
        endpoints: (0..parts.len())
            .map(|index| (0..parts[index].2).map(|n| addr(index, n)).collect())
            .collect(),
    };
    let listener = Listener {
        key: ObjectKey::default(),
        vips: vec![Vip::Any],
        port: 443,
        routes: vec![Route {
            pattern: "".parse().unwrap(),
            backend,
            origin: ObjectRef::default(),
        }],
    };
    Model {
        listeners: vec![listener],
        ..Model::default()
    }
}

fn backend_of(table: &RouteTable) -> Arc<Backend> {
    Arc::clone(table.backends().next().unwrap())
}

fn backend(method: Method, parts: &[Part]) -> Arc<Backend> {
    backend_of(&RouteTable::compile(&model(method, parts), 1, None))
}

fn name(index: usize) -> String {
    char::from(b'a' + index as u8).to_string()
}

fn addr(cluster: usize, n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    SocketAddr::from(([10, cluster as u8, high, low], 8443))
}

fn cluster_of(endpoint: &Endpoint) -> usize {
    usize::from(endpoint.cluster().as_str().as_bytes()[0] - b'a')
}

fn client(number: u32) -> IpAddr {
    IpAddr::from((0xc633_6400 + number).to_be_bytes())
}

/// How many of so many clients meet each cluster.
fn counts(backend: &Backend, clusters: usize, clients: u32) -> Vec<u32> {
    let mut counts = vec![0; clusters];
    for number in 0..clients {
        let lease = backend.pick(client(number), &[], Duration::ZERO).unwrap();
        counts[cluster_of(lease.endpoint())] += 1;
    }
    counts
}

#[test]
fn clusters_get_their_parts_by_weight_and_else_by_endpoints() {
    for method in METHODS {
        // A hash spreads 10,000 clients with a deviation of 50 at most; turns do it exactly.
        let most = if method == Method::SourceIpHash {
            200
        } else {
            5
        };
        for (parts, expected) in [
            (vec![(0, Some(3), 1), (0, Some(1), 9)], vec![7_500, 2_500]),
            (
                vec![(0, Some(1), 2), (0, Some(1), 2), (0, Some(2), 2)],
                vec![2_500, 2_500, 5_000],
            ),
            (vec![(0, None, 9), (0, None, 1)], vec![9_000, 1_000]),
            (vec![(1, None, 9), (0, None, 1)], vec![0, 10_000]),
            (vec![(0, Some(9), 0), (0, Some(1), 1)], vec![0, 10_000]),
            (
                vec![(0, None, 0), (1, Some(65_535), 3), (1, Some(1), 3)],
                vec![0, 10_000, 0],
            ),
        ] {
            let found = counts(&backend(method, &parts), parts.len(), 10_000);
            for (found, expected) in found.iter().zip(&expected) {
                assert!(
                    found.abs_diff(*expected) <= most,
                    "{method:?} {parts:?}: {found} for {expected}"
                );
            }
        }
    }
}

#[test]
fn only_its_clients_move_when_a_cluster_leaves() {
    let all = [(0, Some(2), 3), (0, Some(1), 3), (0, Some(3), 3)];
    let gone = [(0, Some(2), 3), (0, Some(1), 0), (0, Some(3), 3)];
    let (before, after) = (
        backend(Method::SourceIpHash, &all),
        backend(Method::SourceIpHash, &gone),
    );
    for number in 0..2_000 {
        let pick = |backend: &Backend| {
            let lease = backend.pick(client(number), &[], Duration::ZERO).unwrap();
            lease.endpoint().addr()
        };
        let (old, new) = (pick(&before), pick(&after));
        assert!(
            old == new || old.ip().to_string().starts_with("10.1."),
            "{old} {new}"
        );
    }
}

#[test]
fn another_cluster_is_next_when_one_has_failed() {
    for method in METHODS {
        let backend = backend(method, &[(0, None, 5), (1, None, 2), (2, None, 2)]);
        let mut tried = Vec::new();
        let mut clusters = Vec::new();
        while let Some(lease) = backend.pick(client(1), &tried, Duration::ZERO) {
            clusters.push(cluster_of(lease.endpoint()));
            tried.push(lease.endpoint().addr());
        }
        assert_eq!(clusters, [0, 1, 2, 0, 0, 0, 0, 1, 2], "{method:?}");
    }
}

#[test]
fn cluster_that_is_away_costs_one_connection_a_pause() {
    for method in METHODS {
        let backend = backend(method, &[(0, None, 10), (1, None, 2)]);
        let mut now = Duration::ZERO;
        let mut failed = Vec::new();
        for number in 0..1_000 {
            now += Duration::from_millis(100);
            let lease = backend.pick(client(number), &[], now).unwrap();
            if cluster_of(lease.endpoint()) == 0 {
                failed.push(now.as_millis());
                backend.record_failure(lease.endpoint(), now);
            } else {
                backend.record_success(lease.endpoint(), Duration::ZERO);
            }
        }
        assert_eq!(failed.len(), 3 + 9, "{method:?}: {failed:?}");
        // It is back: the next try finds it, and all that follow go there.
        let back = now + PAUSE;
        let lease = backend.pick(client(0), &[], back).unwrap();
        assert_eq!(cluster_of(lease.endpoint()), 0);
        backend.record_success(lease.endpoint(), Duration::ZERO);
        assert_eq!(counts(&backend, 2, 100), [100, 0]);
    }
}

#[test]
fn few_endpoints_that_are_away_do_not_take_the_others_out_of_service() {
    for method in METHODS {
        for away in 1..=3 {
            let backend = backend(method, &[(0, None, 10), (1, None, 2)]);
            let is_away = |at: SocketAddr| (0..away).any(|n| at == addr(0, n));
            let mut now = Duration::ZERO;
            let mut failures = 0;
            for number in 0..1_000 {
                now += Duration::from_millis(100);
                let mut tried = Vec::new();
                let mut first = None;
                loop {
                    let lease = backend.pick(client(number), &tried, now).unwrap();
                    first = first.or(Some(cluster_of(lease.endpoint())));
                    if !is_away(lease.endpoint().addr()) {
                        backend.record_success(lease.endpoint(), Duration::ZERO);
                        break;
                    }
                    backend.record_failure(lease.endpoint(), now);
                    failures += 1;
                    tried.push(lease.endpoint().addr());
                }
                // At first, three that fail in a row may be all there are.
                let is_in_service = first == Some(0);
                assert!(is_in_service || number < 150, "{method:?} {away} {number}");
            }
            assert!(
                failures <= 11 * u32::from(away),
                "{method:?} {away}: {failures}"
            );
        }
    }
}

#[test]
fn doubt_outlives_a_reload_and_is_one_for_all_routes_of_a_service() {
    let parts = [(0, None, 1), (1, None, 1)];
    let one = RouteTable::compile(&model(Method::RoundRobin, &parts), 1, None);
    let lease = backend_of(&one)
        .pick(client(0), &[], Duration::ZERO)
        .unwrap();
    backend_of(&one).record_failure(lease.endpoint(), Duration::ZERO);
    drop(lease);
    let more = [(0, None, 2), (1, None, 1)];
    let next = RouteTable::compile(&model(Method::RoundRobin, &more), 2, Some(&one));
    assert_eq!(counts(&backend_of(&next), 2, 10), [0, 10]);
}

#[test]
fn one_thread_tries_again_when_many_ask_at_once() {
    let backend = backend(Method::RoundRobin, &[(0, None, 1), (1, None, 1)]);
    let lease = backend.pick(client(0), &[], Duration::ZERO).unwrap();
    backend.record_failure(lease.endpoint(), Duration::ZERO);
    for pause in 1..50 {
        let now = PAUSE * pause;
        let tries: usize = std::thread::scope(|scope| {
            let ask = || {
                let lease = backend.pick(client(0), &[], now).unwrap();
                usize::from(cluster_of(lease.endpoint()) == 0)
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(tries, 1, "pause {pause}");
    }
}

/// What a plain reading of the rules remembers of a cluster.
#[derive(Clone, Default)]
struct Memory {
    /// Endpoints that have failed since the last success, and had not before.
    news: usize,
    until: Option<Duration>,
    /// Endpoints in doubt, and until when.
    endpoints: BTreeMap<SocketAddr, Duration>,
}

/// Where the rules let a connection go that has failed at `tried`, and whether it is one that
/// tries a cluster again.
fn allowed(parts: &[Part], memory: &[Memory], tried: &[usize], now: Duration) -> Vec<usize> {
    let failed = |cluster: usize| tried.iter().filter(|other| **other == cluster).count();
    let lowest = |clusters: Vec<usize>| -> Vec<usize> {
        let tier = clusters.iter().map(|&cluster| parts[cluster].0).min();
        let same = |cluster: &usize| Some(parts[*cluster].0) == tier;
        clusters.into_iter().filter(same).collect()
    };
    let left: Vec<_> = (0..parts.len())
        .filter(|&cluster| failed(cluster) < usize::from(parts[cluster].2))
        .collect();
    let fresh: Vec<_> = left
        .iter()
        .copied()
        .filter(|&cluster| failed(cluster) == 0)
        .filter(|&cluster| memory[cluster].until.is_none_or(|until| until <= now))
        .collect();
    lowest(if fresh.is_empty() { left } else { fresh })
}

proptest! {
    #[test]
    fn clusters_are_chosen_as_a_plain_reading_of_the_rules_says(
        method in prop::sample::select(METHODS.to_vec()),
        parts in prop::collection::vec((0..3u16, prop::option::of(1..4u16), 0..5u16), 2..5),
        steps in prop::collection::vec((0..8_000u64, any::<u32>(), any::<u32>()), 1..60),
    ) {
        let backend = backend(method, &parts);
        let mut memory = vec![Memory::default(); parts.len()];
        let mut now = Duration::ZERO;
        for (wait, number, down) in steps {
            now += Duration::from_millis(wait);
            let mut tried: Vec<SocketAddr> = Vec::new();
            let mut clusters = Vec::new();
            while let Some(lease) = backend.pick(client(number >> 8), &tried, now) {
                let (at, cluster) = (lease.endpoint().addr(), cluster_of(lease.endpoint()));
                let allowed = allowed(&parts, &memory, &clusters, now);
                prop_assert!(allowed.contains(&cluster), "{cluster} of {allowed:?}");
                prop_assert!(!tried.contains(&at));
                let doubtful = &mut memory[cluster].until;
                if doubtful.is_some_and(|until| until <= now) && !clusters.contains(&cluster) {
                    *doubtful = Some(now + PAUSE);
                }
                let all = (0..parts[cluster].2).map(|n| addr(cluster, n));
                let mut left = all.filter(|other| !tried.contains(other));
                let endpoints = &mut memory[cluster].endpoints;
                match endpoints.get(&at).copied() {
                    Some(until) if until > now => {
                        let is_paused = |other| endpoints.get(&other).is_some_and(|until| *until > now);
                        prop_assert!(left.all(is_paused), "{at} is in doubt, and another is not");
                    }
                    Some(_) => {
                        endpoints.insert(at, now + PAUSE);
                    }
                    None => {}
                }
                // A bit an endpoint, of which the first clusters' are down more often.
                let bit = cluster * 5 + usize::from(at.ip().to_string().ends_with('1'));
                if (down >> bit) & 1 == 0 {
                    backend.record_success(lease.endpoint(), Duration::ZERO);
                    let memory = &mut memory[cluster];
                    (memory.news, memory.until) = (0, None);
                    memory.endpoints.remove(&at);
                    break;
                }
                backend.record_failure(lease.endpoint(), now);
                let memory = &mut memory[cluster];
                let is_news = memory.endpoints.insert(at, now + PAUSE).is_none();
                memory.news += usize::from(is_news);
                if memory.news >= 3 || memory.endpoints.len() == usize::from(parts[cluster].2) {
                    memory.until = Some(now + PAUSE);
                }
                tried.push(at);
                clusters.push(cluster);
            }
            let endpoints: usize = parts.iter().map(|part| usize::from(part.2)).sum();
            prop_assert!(tried.len() <= endpoints);
        }
    }

    #[test]
    fn every_endpoint_comes_up_once_when_all_fail(
        method in prop::sample::select(METHODS.to_vec()),
        parts in prop::collection::vec((0..3u16, prop::option::of(1..4u16), 0..9u16), 1..6),
        before in 0..10u32,
    ) {
        let backend = backend(method, &parts);
        for number in 0..before {
            if let Some(lease) = backend.pick(client(number), &[], Duration::ZERO) {
                backend.record_failure(lease.endpoint(), Duration::ZERO);
            }
        }
        let mut tried: BTreeMap<SocketAddr, usize> = BTreeMap::new();
        let addrs = |tried: &BTreeMap<SocketAddr, usize>| tried.keys().copied().collect::<Vec<_>>();
        while let Some(lease) = backend.pick(client(7), &addrs(&tried), Duration::ZERO) {
            *tried.entry(lease.endpoint().addr()).or_default() += 1;
        }
        prop_assert_eq!(tried.len(), backend.endpoint_count());
        prop_assert!(tried.values().all(|times| *times == 1));
    }
}
