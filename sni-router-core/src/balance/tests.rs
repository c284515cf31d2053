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
            let tried: Vec<_> = held.last().copied().into_iter().collect();
            let expected = backend.preview(client, &tried, NOW);
            assert_eq!(backend.preview(client, &tried, NOW), expected, "{method:?}");
            let lease = backend.pick(client, &tried, NOW).unwrap();
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

/// One Service port with so many endpoints, at ports from 0 on.
pub(super) fn backend(method: Method, endpoints: u16) -> Backend {
    let service = ObjectKey {
        namespace: "default".into(),
        name: "web".into(),
        ..ObjectKey::default()
    };
    let addr = |port| SocketAddr::from(([10, 0, 0, 1], port));
    let backend = model::Backend {
        key: BackendKey::of(service, "443", method),
        endpoints: vec![(0..endpoints).map(addr).collect()],
    };
    Backend::new(&backend, &mut EndpointPool::default(), None)
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
