//! Connections counted by route and endpoint, over tables that follow one another.

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sni_router_core::balance;
use sni_router_core::model::{Model, Route};
use sni_router_core::table::{Counts, PLACES, RouteTable, Tally};
use support::{backend, listener, model, route};

#[test]
fn route_goes_on_counting_when_the_table_changes_and_when_it_comes_back() {
    let first = compile(&["a.test", "b.test"], 1, None);
    let tally = tally(&first, "a.test");
    tally.opened();
    tally.opened();
    tally.closed(true);
    let second = compile(&["a.test"], 2, Some(&first));
    assert!(Arc::ptr_eq(&tally, &self::tally(&second, "a.test")));
    let third = compile(&["b.test"], 3, Some(&second));
    let fourth = compile(&["b.test"], 4, Some(&third));
    // A connection outlives its route.
    tally.closed(false);
    let expected = Counts {
        opened: 2,
        carried: 1,
        failed: 1,
    };
    assert_eq!(counts(&fourth)["a.test"], expected);
    let fifth = compile(&["a.test"], 5, Some(&fourth));
    assert!(Arc::ptr_eq(&tally, &self::tally(&fifth, "a.test")));
}

#[test]
fn pattern_counts_by_listener() {
    let listeners = vec![
        listener("one", &["192.0.2.1"], 443, vec![route("a.test", 0)]),
        listener("two", &["192.0.2.2"], 443, vec![route("a.test", 0)]),
    ];
    let table = RouteTable::compile(&model(listeners), 1, None);
    let tallies: Vec<_> = table
        .listeners()
        .flat_map(|listener| listener.routes())
        .map(|route| Arc::clone(&route.tally))
        .collect();
    assert!(!Arc::ptr_eq(&tallies[0], &tallies[1]));
    assert_eq!(table.counts().count(), 3, "two, and the others");
}

#[test]
fn routes_without_a_place_count_together() {
    let hosts: Vec<_> = (0..PLACES + 3).map(|n| format!("h{n}.test")).collect();
    let table = compile(&hosts, 1, None);
    for host in &hosts {
        let tally = tally(&table, host);
        tally.opened();
        tally.closed(true);
    }
    let counts = counts(&table);
    assert_eq!(counts.len(), PLACES + 1);
    assert_eq!(counts[OTHERS].opened, 3);
    assert_eq!(counts["h0.test"].opened, 1);
    // Who has a place keeps it, wherever in the order others come.
    let more: Vec<_> = ["a.test".to_owned()].into_iter().chain(hosts).collect();
    let next = compile(&more, 2, Some(&table));
    assert!(Arc::ptr_eq(
        &tally(&next, "h0.test"),
        &tally(&table, "h0.test")
    ));
    assert!(Arc::ptr_eq(
        &tally(&next, "a.test"),
        &tally(&next, "h1002.test")
    ));
}

#[test]
fn route_that_has_been_gone_longest_makes_room_and_no_count_is_lost() {
    let hosts: Vec<_> = (0..PLACES).map(|n| format!("h{n}.test")).collect();
    let mut table = compile(&hosts, 1, None);
    let busy = tally(&table, "h0.test");
    busy.opened();
    let gone = tally(&table, "h1.test");
    for _ in 0..5 {
        gone.opened();
        gone.closed(true);
    }
    let sum = |table: &RouteTable| -> u64 { counts(table).values().map(|it| it.opened).sum() };
    table = compile(&hosts[2..], 2, Some(&table));
    let mut with_new = hosts[2..].to_vec();
    with_new.push("new.test".to_owned());
    // Not at once: the table that had them may still send a connection there.
    let full = compile(&hosts, 1, None);
    let at_once = compile(&with_new, 2, Some(&full));
    assert!(!counts(&at_once).contains_key("new.test"));
    table = compile(&hosts[2..], 3, Some(&table));
    table = compile(&with_new, 4, Some(&table));
    let after = counts(&table);
    assert!(after.contains_key("h0.test"), "it has a connection");
    assert!(!after.contains_key("h1.test"));
    assert_eq!(after["new.test"], Counts::default());
    assert_eq!(after[OTHERS].opened, 5);
    assert_eq!(sum(&table), 6);
}

#[test]
fn endpoints_beyond_the_first_are_told_together_and_stay_so() {
    let addr = |n: usize| {
        let [_, _, c, d] = (n as u32).to_be_bytes();
        SocketAddr::from(([10, 9, c, d], 443))
    };
    let with = |numbers: &[usize]| {
        let mut backend = backend(0);
        backend.endpoints = vec![numbers.iter().map(|&n| addr(n)).collect()];
        let route = Route {
            backend,
            ..route("a.test", 0)
        };
        model(vec![listener("web", &["*"], 443, vec![route])])
    };
    let all: Vec<_> = (10..10 + balance::PLACES + 2).collect();
    let table = RouteTable::compile(&with(&all), 1, None);
    let others = |table: &RouteTable| {
        let endpoints = table
            .endpoints()
            .filter(|(_, _, it)| !it.is_counted_alone());
        let mut found: Vec<_> = endpoints.map(|(_, _, it)| it.addr()).collect();
        found.sort();
        found
    };
    let last = all.len() + 9;
    assert_eq!(others(&table), [addr(last - 1), addr(last)]);
    let backend = Arc::clone(table.backends().next().unwrap());
    let took = Duration::from_millis(3);
    for endpoint in backend.endpoints() {
        backend.record_success(endpoint, took);
    }
    let told = table.other_connects();
    assert_eq!((told.successes, told.took), (2, took * 2));
    // An address before all others does not take the place of one that has it.
    let more: Vec<_> = [1].into_iter().chain(all.iter().copied()).collect();
    let next = RouteTable::compile(&with(&more), 2, Some(&table));
    assert_eq!(others(&next), [addr(1), addr(last - 1), addr(last)]);
    // Their counts outlive them.
    let none = RouteTable::compile(&Model::default(), 3, Some(&next));
    assert_eq!(none.other_connects(), told);
}

fn compile<H: AsRef<str>>(hosts: &[H], generation: u64, before: Option<&RouteTable>) -> RouteTable {
    let routes = hosts.iter().map(|host| route(host.as_ref(), 0)).collect();
    let model = model(vec![listener("web", &["*"], 443, routes)]);
    RouteTable::compile(&model, generation, before)
}

fn tally(table: &RouteTable, host: &str) -> Arc<Tally> {
    let listener = table.listeners().next().unwrap();
    let route = listener.route(Some(&host.parse().unwrap()));
    Arc::clone(&route.unwrap().tally)
}

/// By pattern.
fn counts(table: &RouteTable) -> BTreeMap<String, Counts> {
    let counts = table.counts();
    counts
        .map(|(route, counts)| {
            let name = route.map(|(_, pattern)| pattern.to_string());
            (name.unwrap_or_else(|| OTHERS.to_owned()), counts)
        })
        .collect()
}

const OTHERS: &str = "(others)";
