//! Records as they are written, and the document that tells of them.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _};
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::pin::Pin;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use serde_json::Value;
use sni_router_core::hello::{DEFAULT_MAX_SIZE, HelloReader, Progress};
use sni_router_core::model::Model;
use sni_router_core::table::RouteTable;
use tokio::sync::watch;

use super::super::census::Census;
use super::super::quota::Limits;
use super::super::settings::{Answer, Answers, Settings};
use super::*;
use crate::carry::{self, Datapath, Ends, Outcome, Pair, Refused, Traffic};

const DOCUMENT: &str = include_str!("../../../../docs/access-log.md");
pub(in crate::proxy) const CURL: &[u8] = include_bytes!("../../../../fuzz/corpus/hello/curl.bin");

#[test]
fn record_has_the_fields_and_types_of_the_document() {
    let rows = DOCUMENT
        .lines()
        .skip_while(|line| *line != "| field | type | what |");
    let documented: BTreeMap<_, _> = rows
        .skip(2)
        .map_while(|row| row.strip_prefix("| `")?.split_once("` | "))
        .map(|(field, rest)| (field, rest.split(' ').next().unwrap_or_default()))
        .collect();
    let line = only_line(|| drop(carried(CloseReason::Done)));
    assert_eq!(types(&line), documented);
    let example = DOCUMENT.lines().find(|line| line.starts_with('{')).unwrap();
    let example: Value = serde_json::from_str(example).unwrap();
    assert_eq!(types(&example), documented);
}

#[test]
fn record_says_what_is_known_and_leaves_the_rest_empty() {
    let line = only_line(|| drop(carried(CloseReason::Done)));
    assert_eq!(line["sni"], "www.example.com");
    assert_eq!(line["ja4"], "t13d3112h2_e8f1e7e78f70_b26ce05bbdd6");
    assert_eq!(line["alpn"], "h2,http/1.1");
    assert_eq!(line["client"], "192.0.2.7:4711");
    assert_eq!(line["datapath"], "userspace");
    assert_eq!(line["bytes_up"], 517);
    assert_eq!(line["reason"], "done");
    let line = only_line(|| drop(accepted(CloseReason::NotTls)));
    for field in ["sni", "ja4", "alpn", "route", "endpoint", "datapath"] {
        assert_eq!(line[field], "", "{field}");
    }
    assert_eq!(line["closed_by"], "router");
}

#[test]
fn start_is_the_wall_clock_at_accept_also_before_1970() {
    let before = SystemTime::now();
    let line = only_line(|| drop(accepted(CloseReason::Done)));
    let start = line["start"].as_str().unwrap();
    assert_eq!(start.len(), "2026-06-01T09:30:05.412Z".len());
    let start = humantime::parse_rfc3339(start).unwrap();
    let millisecond = Duration::from_millis(1);
    assert!(
        start + millisecond > before && start <= SystemTime::now(),
        "{line}"
    );

    let ago = |age| {
        let line = only_line(|| {
            let mut record = Record::new(&proxy(100), CLIENT, VIP, age);
            record.reason = CloseReason::Done;
        });
        humantime::parse_rfc3339(line["start"].as_str().unwrap()).unwrap()
    };
    let hour = Duration::from_secs(3600);
    assert!(ago(hour) <= SystemTime::now() - hour);
    assert!(ago(hour) >= before - hour - millisecond);
    let century = Duration::from_secs(100 * 366 * 86_400);
    assert_eq!(ago(century), UNIX_EPOCH);
}

#[test]
fn whose_fin_came_first_has_closed_whatever_happened_then() {
    let closed_by = |reason, finished: &[Direction]| {
        let line = only_line(|| {
            let record = carried(reason);
            finished
                .iter()
                .for_each(|&direction| record.connection.traffic.finished(direction));
        });
        line["closed_by"].as_str().unwrap().to_owned()
    };
    use CloseReason::*;
    use Direction::*;
    assert_eq!(closed_by(Done, &[Up, Down]), "client");
    assert_eq!(closed_by(Done, &[Down, Up, Up]), "endpoint");
    assert_eq!(closed_by(Done, &[]), "");
    assert_eq!(closed_by(ClientReset, &[]), "client");
    assert_eq!(closed_by(ClientReset, &[Down]), "endpoint");
    assert_eq!(closed_by(EndpointReset, &[]), "endpoint");
    assert_eq!(closed_by(EndpointReset, &[Up]), "client");
    assert_eq!(closed_by(IdleTimeout, &[]), "router");
    assert_eq!(closed_by(IdleTimeout, &[Down]), "endpoint");
    assert_eq!(closed_by(Left, &[]), "");
}

#[test]
fn rejects_beyond_the_quota_are_counted_by_the_next_that_is_written() {
    let proxy = proxy(1);
    let reject = || rejected(&proxy);
    let first = only_line(|| (0..5).for_each(|_| drop(reject())));
    assert_eq!(first["suppressed"], 0);
    let later = Instant::now() + Duration::from_secs(2);
    let quota = &proxy.quota;
    assert_eq!(quota.admit(CloseReason::NotTls, false, later), Some(4));
}

#[test]
fn nothing_is_written_nor_counted_as_left_out_when_there_is_no_access_log() {
    let proxy = proxy(0);
    let record = rejected(&proxy);
    let lines = lines("info,access=off", || drop(record));
    assert!(lines.is_empty(), "{lines:?}");
    assert_eq!(
        proxy.quota.admit(CloseReason::NotTls, true, Instant::now()),
        Some(0)
    );
}

/// The record of a connection that was carried to this end.
fn carried(reason: CloseReason) -> Record {
    carried_of(&proxy(100), reason)
}

pub(in crate::proxy) fn carried_of(proxy: &Arc<Proxy>, reason: CloseReason) -> Record {
    let mut record = Record::new(proxy, CLIENT, VIP, Duration::ZERO);
    record.reason = reason;
    let mut reader = HelloReader::new(DEFAULT_MAX_SIZE).with_ja4(true);
    let Progress::Hello(hello) = reader.advance(CURL) else {
        panic!("a hello of the corpus");
    };
    record.hello = Some(HelloFacts::of(&hello));
    let connection = &record.connection;
    connection.host.set(hello.server_name.unwrap()).unwrap();
    connection.connected_to(ENDS.endpoint);
    connection.carried_by(Kind::Userspace);
    connection.traffic.raise(Direction::Up, CURL.len() as u64);
    record
}

/// The record of one that was not.
fn accepted(reason: CloseReason) -> Record {
    let mut record = Record::new(&proxy(100), CLIENT, VIP, Duration::ZERO);
    record.reason = reason;
    record
}

fn rejected(proxy: &Arc<Proxy>) -> Record {
    let mut record = Record::new(proxy, CLIENT, VIP, Duration::ZERO);
    record.reason = CloseReason::NotTls;
    record
}

/// One that serves nothing, with a quota of rejects.
fn proxy(rejects: u32) -> Arc<Proxy> {
    proxy_with(rejects, Census::new(None, None))
}

pub(in crate::proxy) fn proxy_with(rejects: u32, census: Census) -> Arc<Proxy> {
    let answer = Answer::Reset;
    let settings = Settings {
        hello_timeout: Duration::ZERO,
        hello_max_size: 0,
        max_pending_hellos: 0,
        connect_timeout: Duration::ZERO,
        idle_timeout: Duration::ZERO,
        max_duration: None,
        answers: Answers {
            unknown_host: answer,
            no_sni: answer,
            not_tls: answer,
            malformed: answer,
            too_large: answer,
            timeout: answer,
        },
        records: Limits {
            rejects,
            sample: NonZeroU32::MIN,
        },
    };
    let table = RouteTable::compile(&Model::default(), 0, None);
    Arc::new(Proxy::new(
        settings,
        Arc::new(ArcSwap::from_pointee(table)),
        Arc::new(Nothing),
        Arc::new(Nobody),
        Arc::new(census),
        Arc::default(),
        watch::channel(false).1,
    ))
}

const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), 4711);
const VIP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 443);

pub(in crate::proxy) const ENDS: Ends = Ends {
    client: CLIENT,
    vip: VIP,
    endpoint: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 9)), 8443),
};

/// Field names and JSON types.
fn types(line: &Value) -> BTreeMap<&str, &'static str> {
    let fields = line.as_object().unwrap().iter();
    fields
        .map(|(field, value)| match value {
            Value::String(_) => (field.as_str(), "string"),
            Value::Number(_) => (field.as_str(), "number"),
            Value::Bool(_) => (field.as_str(), "boolean"),
            other => panic!("{field}: {other}"),
        })
        .collect()
}

#[track_caller]
pub(in crate::proxy) fn only_line(log: impl FnOnce()) -> Value {
    let mut lines = lines("info", log);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

/// The lines that `log` leads to, in the format of `observe::log`.
pub(in crate::proxy) fn lines(filter: &str, log: impl FnOnce()) -> Vec<Value> {
    let file = Arc::new(tempfile::tempfile().unwrap());
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(filter)
        .with_writer(Arc::clone(&file))
        .finish();
    tracing::subscriber::with_default(subscriber, log);
    let (mut file, mut text) = (&*file, String::new());
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

struct Nobody;

impl Observer for Nobody {
    fn adopted_by(&self, _: &Front) {}
    fn accepted(&self, _: Option<&Front>) {}
    fn greeted(&self, _: Duration, _: usize) {}
    fn routed(&self, _: &Route) {}
    fn connected(&self, _: Duration, _: u32) {}
    fn connect_failed(&self, _: ConnectFailure) {}
    fn adopted(&self) {}
    fn carrying(&self, _: Kind) {}
    fn carried(&self, _: Kind) {}
    fn declined(&self, _: Decline) {}
    fn closed(&self, _: &Record) {}
}

struct Nothing;

impl Datapath for Nothing {
    fn carry<'a>(
        &'a self,
        _: Pair,
        _: &'a carry::Limits,
        _: &'a Traffic,
    ) -> Pin<Box<dyn Future<Output = Result<Outcome, Refused>> + Send + 'a>> {
        unreachable!("nothing is carried")
    }

    fn kind(&self) -> Kind {
        Kind::Userspace
    }

    fn next(&self) -> Option<&dyn Datapath> {
        None
    }
}
