use std::collections::HashSet;

use super::*;

impl Ports {
    fn take(&self, to: SocketAddr, now: Instant) -> Option<Taken> {
        self.take_from(to, now, |_| true)
    }
}

const TO: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

#[test]
fn every_port_is_given_out_once_and_then_none() {
    for count in [1, 2, 3, 7, 10, 1000] {
        let ports = Ports::new(2000..=2000 + count - 1, &[]);
        let now = Instant::now();
        let all: HashSet<_> = (0..count)
            .map(|_| ports.take(TO, now).expect("a free port").port.number)
            .collect();
        assert_eq!(all, (2000..2000 + count).collect());
        assert_eq!(ports.take(TO, now), None);
        let other = SocketAddr::new(TO.ip(), 2);
        assert!(ports.take(other, now).is_some(), "another endpoint");
    }
}

#[test]
fn a_released_port_is_free_at_once() {
    let ports = Ports::new(5..=5, &[]);
    let now = Instant::now();
    let taken = ports.take(TO, now).expect("a free port");
    ports.release(taken.port);
    let again = ports.take(TO, now).expect("it is free again");
    assert_eq!((again.port.number, again.was_lingering), (5, false));
}

#[test]
fn a_lingering_port_is_given_out_when_it_is_needed_but_not_at_once() {
    let ports = Ports::new(5..=6, &[]);
    let start = Instant::now();
    let first = ports.take(TO, start).expect("a free port").port;
    ports.linger(first, start);
    let second = ports.take(TO, start).expect("the other one");
    assert_ne!(second.port, first);
    assert_eq!(ports.take(TO, start), None, "it has hardly rested");
    let third = ports.take(TO, start + LEAST_REST).expect("it has rested");
    assert_eq!((third.port, third.was_lingering), (first, true));
}

#[test]
fn what_has_lingered_is_free_and_leaves_nothing_behind() {
    let ports = Ports::new(5..=5, &[]);
    let start = Instant::now();
    let port = ports.take(TO, start).expect("a free port").port;
    ports.linger(port, start);
    let again = ports.take(TO, start + LINGER).expect("it is over");
    assert!(!again.was_lingering);
    ports.linger(again.port, start + LINGER);
    ports.sweep(start + LINGER * 2);
    assert!(ports.lines().is_empty());
}

#[test]
fn a_port_that_was_said_to_linger_twice_is_freed_once() {
    let ports = Ports::new(5..=6, &[]);
    let start = Instant::now();
    let (first, second) = (ports.take(TO, start), ports.take(TO, start));
    let (first, _) = (first.expect("a free port").port, second.expect("another"));
    for after in [0, 10] {
        ports.linger(first, start + Duration::from_secs(after));
    }
    // By somebody who needs it, and by time.
    let rested = start + LEAST_REST;
    assert_eq!(ports.take(TO, rested).expect("it has rested").port, first);
    assert_eq!(ports.take(TO, start + LINGER * 2), None);
    ports.linger(first, start);
    ports.linger(first, start + LEAST_REST);
    let again = ports.take(TO, start + LINGER).expect("it is over").port;
    assert_eq!(again, first);
    assert_eq!(ports.take(TO, start + LINGER * 2), None);
}

#[test]
fn a_port_that_is_held_again_does_not_linger_any_more() {
    let ports = Ports::new(5..=6, &[]);
    let start = Instant::now();
    let (first, second) = (ports.take(TO, start), ports.take(TO, start));
    let (first, second) = (first.expect("a free port").port, second.expect("another"));
    ports.linger(first, start);
    ports.linger(second.port, start);
    ports.hold(first);
    let mut left = (0..2).map(|_| ports.take(TO, start + LINGER).map(|taken| taken.port));
    assert_eq!(left.next(), Some(Some(second.port)));
    assert_eq!(left.next(), Some(None), "the other one is held");
    // From now on it is as if it had never lingered.
    ports.linger(first, start + LINGER);
    assert_eq!(ports.take(TO, start + LINGER), None);
    let again = ports.take(TO, start + LINGER * 2).expect("it is over");
    assert_eq!(again.port, first);
}

#[test]
fn each_source_has_all_ports_and_only_those_of_the_endpoints_family_are_used() {
    let sources: [IpAddr; 3] = ["10.0.0.1", "2001:db8::1", "::ffff:10.0.0.2"]
        .map(|source| source.parse().expect("an address"));
    let ports = Ports::new(5..=6, &sources);
    let now = Instant::now();
    let all: HashSet<_> = (0..4)
        .map(|_| ports.take(TO, now).expect("a free port").port)
        .collect();
    assert_eq!(all.len(), 4);
    let from = |source: &str| {
        let source: IpAddr = source.parse().expect("an address");
        all.iter().filter(|port| port.from == source).count()
    };
    assert_eq!((from("10.0.0.1"), from("10.0.0.2")), (2, 2));
    assert_eq!(ports.take(TO, now), None);
    // One that has rested is better than none, of whichever source.
    let one = *all.iter().next().expect("four of them");
    ports.linger(one, now);
    let again = ports.take(TO, now + LEAST_REST).expect("it has rested");
    assert_eq!((again.port, again.was_lingering), (one, true));
    let source = SocketAddr::new(one.from, one.number);
    assert_eq!(ports.port(source, TO), one);
    // Only one of the sources will do.
    all.iter().for_each(|port| ports.release(*port));
    let taken = |_| ports.take_from(TO, now, |from| from == one.from);
    let (taken, none): (Vec<_>, Vec<_>) = (0..3).map(taken).partition(Option::is_some);
    assert!(
        taken
            .iter()
            .flatten()
            .all(|taken| taken.port.from == one.from)
    );
    assert_eq!((taken.len(), none.len()), (2, 1));
}
