//! What is left to the kernel, from its record to its record.

use std::sync::Mutex;
use std::time::Duration;

use super::super::census::Census;
use super::super::record::tests::{CURL, ENDS, carried_of, lines, only_line, proxy_with};
use super::*;
use crate::carry::{Aside, Moved};

#[test]
fn record_of_what_was_left_to_the_kernel_says_the_same_when_it_is_over() {
    let (proxy, flow) = with_kernel();
    let record = || {
        let mut record = carried_of(&proxy, CloseReason::Done);
        record.retries = 2;
        record.failed = "10.0.0.1:443 refused".into();
        record
    };
    let mut with_socket = only_line(|| drop(record()));
    let lines = lines("info", || {
        let record = record();
        assert_eq!(proxy.active(), 0);
        leave(record, None, Active::enter(&proxy), Box::new(flow.clone()));
    });
    assert!(lines.is_empty(), "{lines:?}");
    assert_eq!((proxy.active(), proxy.census.count()), (1, 1));
    let seat = flow.0.lock().unwrap().seat.take().unwrap();
    let up = CURL.len() as u64;
    let mut left = only_line(|| proxy.ended(seat, ENDS, End::Done, up, 9));
    assert_eq!((proxy.active(), proxy.census.count()), (0, 0));
    assert_eq!(left["bytes_down"], 9);
    for line in [&mut with_socket, &mut left] {
        for own in ["id", "start", "timestamp", "duration_ms", "bytes_down"] {
            assert!(line.as_object_mut().unwrap().remove(own).is_some(), "{own}");
        }
    }
    assert_eq!(with_socket, left);
}

#[test]
fn what_was_left_is_found_as_before_and_can_be_ended() {
    let (proxy, flow) = with_kernel();
    let census = &proxy.census;
    let _other = carried_of(&proxy, CloseReason::Done);
    let record = carried_of(&proxy, CloseReason::Done);
    let (before, id) = (Arc::clone(&record.connection), record.connection.id);
    leave(record, None, Active::enter(&proxy), Box::new(flow.clone()));
    let after = census.get(id).unwrap();
    let facts = |it: &Connection| {
        let host = it.host.get().cloned();
        (it.client(), it.vip(), it.endpoint(), host, it.datapath())
    };
    assert_eq!(facts(&after), facts(&before));
    assert!(after.age().abs_diff(before.age()) < Duration::from_secs(1));
    let found = census.filter(|it| facts(it) == facts(&before));
    assert_eq!(found.iter().map(|it| it.id).collect::<Vec<_>>(), [1, id]);
    assert_eq!(census.found(&found[1]).unwrap().id, id);
    let of_clients = |ip| census.of_clients(move |client| client == ip).len();
    assert_eq!(
        (of_clients(ENDS.client.ip()), of_clients(ENDS.vip.ip())),
        (2, 0)
    );
    // By any of those who know it.
    census.end_found(&found[1], End::Closed);
    census.end(&before, End::Closed);
    census.end(&after, End::Denied);
    let mut kernel = flow.0.lock().unwrap();
    use End::{Closed, Denied};
    assert_eq!(kernel.told, [(7, Closed), (7, Closed), (7, Denied)]);
    let seat = kernel.seat.take().unwrap();
    drop(kernel);
    let line = only_line(|| proxy.left(seat, ENDS));
    assert_eq!((&line["reason"], &line["id"]), (&"left".into(), &id.into()));
    assert!(census.get(id).is_none() && census.found(&found[1]).is_none());
    assert_eq!(census.filter(|_| true).len(), 1);
}

#[test]
fn what_ends_while_it_is_being_left_has_one_record() {
    let (proxy, flow) = with_kernel();
    flow.0.lock().unwrap().ends = Some(Arc::clone(&proxy));
    let record = carried_of(&proxy, CloseReason::Done);
    let connection = Arc::clone(&record.connection);
    proxy.census.end(&connection, End::Closed);
    let active = Active::enter(&proxy);
    let line = only_line(|| leave(record, None, active, Box::new(flow.clone())));
    assert_eq!(line["reason"], "endpoint_reset");
    assert_eq!((proxy.active(), proxy.census.count()), (0, 0));
    // Who was told to end too early for that is told again.
    assert_eq!(flow.0.lock().unwrap().told, [(7, End::Closed)]);
}

/// What carries a connection alone, which is number 7.
#[derive(Clone, Default)]
struct Flow(Arc<Mutex<Kernel>>);

#[derive(Default)]
struct Kernel {
    seat: Option<Seat>,
    told: Vec<(u32, End)>,
    /// Ends everything as soon as it is left.
    ends: Option<Arc<Proxy>>,
}

impl Alone for Flow {
    fn number(&self) -> u32 {
        7
    }

    fn leave(self: Box<Self>, seat: Seat) {
        let ends = self.0.lock().unwrap().ends.take();
        match ends {
            Some(proxy) => proxy.ended(seat, ENDS, End::EndpointReset, 1, 1),
            None => self.0.lock().unwrap().seat = Some(seat),
        }
    }
}

impl Aside for Flow {
    fn ends(&self, number: u32) -> Option<Ends> {
        (number == 7).then_some(ENDS)
    }

    fn moved(&self, _: u32) -> Option<Moved> {
        None
    }

    fn end(&self, number: u32, end: End) {
        self.0.lock().unwrap().told.push((number, end));
    }
}

fn with_kernel() -> (Arc<Proxy>, Flow) {
    let flow = Flow::default();
    let census = Census::new(Some(Arc::new(flow.clone())), None);
    (proxy_with(100, census), flow)
}
