//! Picking by every method, from one cluster and from several.

use std::collections::HashMap;

use super::doubt::PAUSE;
use super::*;
use crate::model::{Method, ObjectKey};

#[test]
fn round_robin_goes_around_when_nothing_was_tried() {
    let backend = backend(Method::RoundRobin, 3);
    let picked: Vec<_> = (0..6).map(|_| port(&backend, &[])).collect();
    assert_eq!(
        picked,
        [Some(0), Some(1), Some(2), Some(0), Some(1), Some(2)]
    );
}

#[test]
fn no_method_picks_what_was_tried() {
    for method in METHODS {
        for count in [1, 2, 5, 200] {
            let backend = backend(method, count);
            let mut tried = Vec::new();
            while let Some(lease) = backend.pick(CLIENT, &tried, NOW) {
                let addr = lease.endpoint().addr();
                assert!(!tried.contains(&addr), "{method:?} picked {addr} twice");
                tried.push(addr);
            }
            assert_eq!(tried.len(), usize::from(count), "{method:?} gave up early");
        }
    }
}

#[test]
fn preview_is_what_is_picked_next_and_changes_nothing() {
    for method in METHODS {
        let backend = backend(method, 5);
        let mut held = Vec::new();
        for turn in 0..40 {
            if turn == 20 {
                let failing = backend.endpoints().next().unwrap();
                backend.record_failure(failing, NOW);
            }
            let client = IpAddr::from([10, 0, 0, turn % 7]);
            let drained: Vec<_> = held.last().copied().into_iter().collect();
            let expected = backend.preview(client, &drained, NOW);
            let again = backend.preview(client, &drained, NOW);
            assert_eq!(again, expected, "{method:?}");
            let lease = backend.pick_undrained(client, &[], &drained, NOW).unwrap();
            assert_eq!(Some(lease.endpoint().addr()), expected, "{method:?}");
            held.push(lease.endpoint().addr());
        }
    }
}

#[test]
fn nothing_is_picked_when_there_is_no_endpoint() {
    for method in METHODS {
        assert!(backend(method, 0).pick(CLIENT, &[], NOW).is_none());
    }
}

#[test]
fn active_returns_to_zero_when_threads_drop_their_leases() {
    for method in METHODS {
        let backend = backend(method, 7);
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let backend = &backend;
                scope.spawn(move || {
                    for turn in 0..500u16 {
                        let client = IpAddr::from([10, thread, (turn >> 8) as u8, turn as u8]);
                        let _lease = backend.pick(client, &[], NOW).unwrap();
                    }
                });
            }
        });
        let active: usize = backend.endpoints().map(|e| e.active()).sum();
        let total: u64 = backend.endpoints().map(|e| e.total()).sum();
        assert_eq!((active, total), (0, 2000), "{method:?}");
    }
}

#[test]
fn same_client_meets_same_endpoint_when_hashed() {
    let one = backend(Method::SourceIpHash, 9);
    let other = backend(Method::SourceIpHash, 9);
    let mut seen = HashMap::<_, u32>::new();
    for last in 0..=255 {
        let client = IpAddr::from([192, 0, 2, last]);
        let picked = one.pick(client, &[], NOW).unwrap().endpoint().addr();
        assert_eq!(
            other.pick(client, &[], NOW).unwrap().endpoint().addr(),
            picked
        );
        let mapped = IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0200 | u16::from(last)]);
        assert_eq!(
            one.pick(mapped, &[], NOW).unwrap().endpoint().addr(),
            picked
        );
        *seen.entry(picked).or_default() += 1;
    }
    assert_eq!(seen.len(), 9, "256 clients reach every endpoint: {seen:?}");
}

#[test]
fn second_choice_is_the_same_when_the_first_was_tried() {
    let backend = backend(Method::SourceIpHash, 5);
    let first = backend.pick(CLIENT, &[], NOW).unwrap().endpoint().addr();
    let second = backend
        .pick(CLIENT, &[first], NOW)
        .unwrap()
        .endpoint()
        .addr();
    assert_ne!(first, second);
    assert_eq!(
        backend
            .pick(CLIENT, &[first], NOW)
            .unwrap()
            .endpoint()
            .addr(),
        second
    );
}

#[test]
fn endpoint_that_failed_costs_one_connection_a_pause() {
    for method in METHODS {
        let backend = backend(method, 3);
        let lease = backend.pick(CLIENT, &[], NOW).unwrap();
        let gone = lease.endpoint().addr();
        backend.record_failure(lease.endpoint(), NOW);
        drop(lease);
        let meet = |now: Duration| {
            let met = |_: &i32| {
                let lease = backend.pick(CLIENT, &[], now).unwrap();
                lease.endpoint().addr() == gone
            };
            (0..30).filter(met).count()
        };
        assert_eq!(meet(PAUSE - Duration::from_millis(1)), 0, "{method:?}");
        assert_eq!(meet(PAUSE), 1, "{method:?}");
        assert_eq!(meet(PAUSE * 2), 1, "{method:?}");
        let back = backend.endpoints().find(|e| e.addr() == gone).unwrap();
        backend.record_success(back, Duration::ZERO);
        assert!(meet(PAUSE * 2) >= 10, "{method:?}");
    }
}

#[test]
fn turns_stay_even_when_one_is_passed_over() {
    let backend = backend(Method::RoundRobin, 4);
    let lease = backend.pick(CLIENT, &[], NOW).unwrap();
    backend.record_failure(lease.endpoint(), NOW);
    let picked: Vec<_> = (0..6).map(|_| port(&backend, &[])).collect();
    assert_eq!(
        picked,
        [Some(1), Some(2), Some(3), Some(1), Some(2), Some(3)]
    );
}

#[test]
fn endpoint_in_doubt_is_picked_when_no_other_is_left() {
    for method in METHODS {
        for count in [1, 3, 200] {
            let backend = backend(method, count);
            for endpoint in backend.endpoints() {
                backend.record_failure(endpoint, NOW);
            }
            assert!(port(&backend, &[]).is_some(), "{method:?}");
        }
    }
}

#[test]
fn endpoint_that_is_drained_says_nothing_against_its_cluster() {
    for method in METHODS {
        let backend = clusters(method, &[(0, 3), (1, 3)]);
        for drained in 0..3 {
            let drained = [addr(0, drained)];
            for client in 0..60 {
                let picked = undrained(&backend, client, &[], &drained, NOW).unwrap();
                assert_eq!(cluster(picked), 0, "{method:?}");
                assert_ne!(picked, drained[0], "{method:?}");
            }
        }
        let mut drained = vec![addr(0, 0), addr(0, 1), addr(0, 2)];
        let picked = undrained(&backend, 1, &[], &drained, NOW).unwrap();
        assert_eq!(
            cluster(picked),
            1,
            "{method:?}: all of the first are drained"
        );
        drained.extend([addr(1, 0), addr(1, 1), addr(1, 2)]);
        assert_eq!(undrained(&backend, 1, &[], &drained, NOW), None);
    }
}

#[test]
fn cluster_is_in_doubt_when_those_are_that_are_not_drained() {
    for method in METHODS {
        for (endpoints, failing) in [(2, 1), (3, 2), (9, 3)] {
            let backend = clusters(method, &[(0, endpoints), (1, 2)]);
            let drained = [addr(0, 0), addr(1, 0)];
            for number in 1..=failing {
                let mut all = backend.endpoints();
                let endpoint = all.find(|it| it.addr() == addr(0, number)).unwrap();
                backend.record_failure(endpoint, NOW);
            }
            let meet = |now: Duration| {
                let pick = |client| undrained(&backend, client, &[], &drained, now).unwrap();
                let picked = (0..30).map(pick);
                picked.filter(|addr| cluster(*addr) == 0).count()
            };
            assert_eq!(meet(PAUSE - Duration::from_millis(1)), 0, "{method:?}");
            let again = usize::from(failing);
            assert!(
                (1..=again).contains(&meet(PAUSE)),
                "{method:?}: tries again"
            );
        }
    }
}

#[test]
fn cluster_that_failed_is_left_for_another_when_each_has_a_drained_one() {
    for method in METHODS {
        let backend = clusters(method, &[(0, 4), (1, 2), (2, 2)]);
        let drained = [addr(0, 3), addr(1, 0), addr(2, 1)];
        let mut tried = Vec::new();
        while let Some(picked) = undrained(&backend, 1, &tried, &drained, NOW) {
            tried.push(picked);
        }
        let met: Vec<_> = tried.iter().map(|addr| cluster(*addr)).collect();
        assert_eq!(met, [0, 1, 2, 0, 0], "{method:?}");
        assert!(tried.iter().all(|addr| !drained.contains(addr)));
    }
}

#[test]
fn endpoint_that_was_tried_and_then_drained_counts_once() {
    for method in METHODS {
        for backend in [backend(method, 2), clusters(method, &[(0, 2), (1, 0)])] {
            let both = [addr(0, 0)];
            let picked = undrained(&backend, 1, &both, &both, NOW);
            assert_eq!(picked, Some(addr(0, 1)), "{method:?}");
        }
    }
}

/// One Service port with so many endpoints, at ports from 0 on.
pub(super) fn backend(method: Method, endpoints: u16) -> Backend {
    let service = ObjectKey {
        namespace: "default".into(),
        name: "web".into(),
        ..ObjectKey::default()
    };
    let backend = model::Backend {
        key: BackendKey::of(service, "443", method),
        endpoints: vec![(0..endpoints).map(|port| addr(0, port)).collect()],
    };
    Backend::new(&backend, &mut EndpointPool::default(), None)
}

/// A Service port of several clusters, each with its tier and so many endpoints.
fn clusters(method: Method, parts: &[(u16, u16)]) -> Backend {
    let share = |(index, part): (usize, &(u16, u16))| model::Share {
        service: ObjectKey {
            cluster: format!("c{index}").parse().unwrap(),
            ..ObjectKey::default()
        },
        port: "443".into(),
        tier: part.0,
        weight: None,
    };
    let of = |(index, part): (u8, &(u16, u16))| (0..part.1).map(|n| addr(index, n)).collect();
    let backend = model::Backend {
        key: BackendKey::shared(parts.iter().enumerate().map(share).collect(), method),
        endpoints: (0..).zip(parts).map(of).collect(),
    };
    Backend::new(&backend, &mut EndpointPool::default(), None)
}

fn addr(cluster: u8, number: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, cluster, 1], number))
}

/// Which cluster an address is in.
fn cluster(addr: SocketAddr) -> u8 {
    match addr.ip() {
        IpAddr::V4(v4) => v4.octets()[2],
        IpAddr::V6(_) => unreachable!("all are IPv4"),
    }
}

fn undrained(
    backend: &Backend,
    client: u8,
    tried: &[SocketAddr],
    drained: &[SocketAddr],
    now: Duration,
) -> Option<SocketAddr> {
    let client = IpAddr::from([198, 51, 100, client]);
    let lease = backend.pick_undrained(client, tried, drained, now)?;
    Some(lease.endpoint().addr())
}

fn port(backend: &Backend, tried: &[SocketAddr]) -> Option<u16> {
    backend
        .pick(CLIENT, tried, NOW)
        .map(|lease| lease.endpoint().addr().port())
}

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));
const NOW: Duration = Duration::ZERO;
const METHODS: [Method; 3] = [
    Method::RoundRobin,
    Method::LeastConnection,
    Method::SourceIpHash,
];
