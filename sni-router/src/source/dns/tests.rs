use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::time::{sleep, timeout};

use super::*;

#[tokio::test(start_paused = true)]
async fn name_is_asked_for_again_when_its_ttl_is_over() {
    let answers = Script::new([
        ("a.test", ok(&["192.0.2.2", "192.0.2.1"], 30)),
        ("a.test", ok(&["192.0.2.3"], 30)),
    ]);
    let began = Instant::now();
    let dns = start(&answers, &["a.test"]);
    let mut resolved = dns.resolved();

    assert_eq!(next(&mut resolved).await, "a.test=[192.0.2.1, 192.0.2.2]");
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(next(&mut resolved).await, "a.test=[192.0.2.3]");
    assert_eq!(began.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_when_only_the_order_changed() {
    let answers = Script::new([
        ("a.test", ok(&["192.0.2.1", "192.0.2.2"], 30)),
        ("a.test", ok(&["192.0.2.2", "192.0.2.1"], 30)),
        ("a.test", ok(&["192.0.2.9"], 30)),
    ]);
    let dns = start(&answers, &["a.test"]);
    let mut resolved = dns.resolved();
    next(&mut resolved).await;
    assert_eq!(next(&mut resolved).await, "a.test=[192.0.2.9]");
}

#[tokio::test(start_paused = true)]
async fn ttl_is_bounded_when_it_is_absurd() {
    for (ttl, expected) in [(0, TTL_LEAST), (u64::from(u32::MAX), TTL_MOST)] {
        let answers = Script::new([
            ("a.test", ok(&["192.0.2.1"], ttl)),
            ("a.test", ok(&["192.0.2.2"], 9)),
        ]);
        let began = Instant::now();
        let dns = start(&answers, &["a.test"]);
        let mut resolved = dns.resolved();
        next(&mut resolved).await;
        next(&mut resolved).await;
        assert_eq!(began.elapsed().as_secs(), expected.as_secs());
    }
}

#[tokio::test(start_paused = true)]
async fn last_addresses_stay_when_a_name_stops_resolving() {
    let answers = Script::new([
        ("a.test", ok(&["192.0.2.1"], 10)),
        ("a.test", Err("refused".into())),
        ("a.test", Err("refused".into())),
        ("a.test", Err("refused".into())),
        ("a.test", ok(&["192.0.2.2"], 10)),
    ]);
    let began = Instant::now();
    let dns = start(&answers, &["a.test"]);
    let mut resolved = dns.resolved();
    assert_eq!(next(&mut resolved).await, "a.test=[192.0.2.1]");
    assert_eq!(next(&mut resolved).await, "a.test=[192.0.2.2]");
    // The time to live, then pauses of 1, 2 and 4 s.
    assert_eq!(began.elapsed().as_secs(), 10 + 1 + 2 + 4);
}

#[tokio::test(start_paused = true)]
async fn name_is_there_without_addresses_when_it_never_resolved() {
    let answers = Script::new([("a.test", Err("no such name".into()))]);
    let dns = start(&answers, &["a.test"]);
    assert_eq!(next(&mut dns.resolved()).await, "a.test=[]");
}

#[tokio::test(start_paused = true)]
async fn pauses_after_failures_grow_to_a_minute() {
    let answers = Script::new([]);
    let _dns = start(&answers, &["a.test"]);
    sleep(Duration::from_secs(3600)).await;
    // 1 + 2 + 4 + 8 + 16 + 32 s, then once a minute.
    let asked = answers.asked();
    assert!((62..=67).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn name_is_forgotten_when_it_is_not_wanted() {
    let answers = Script::new([
        ("a.test", ok(&["192.0.2.1"], 60)),
        ("b.test", ok(&["192.0.2.2"], 60)),
    ]);
    let dns = start(&answers, &["a.test"]);
    let mut resolved = dns.resolved();
    assert_eq!(next(&mut resolved).await, "a.test=[192.0.2.1]");
    dns.want(&names(&["b.test"]));
    let mut last = next(&mut resolved).await;
    if last.is_empty() {
        last = next(&mut resolved).await;
    }
    assert_eq!(last, "b.test=[192.0.2.2]");
}

#[tokio::test(start_paused = true)]
async fn every_name_is_asked_for_when_there_are_more_than_go_at_once() {
    let hosts: Vec<_> = (0..3 * AT_ONCE).map(|i| format!("h{i}.test")).collect();
    let answers = Script::new([]);
    answers.delay(Duration::from_millis(10));
    let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
    let dns = start(&answers, &hosts);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(dns.resolved().borrow().len(), hosts.len());
    assert_eq!(answers.asked(), hosts.len());
    assert_eq!(answers.most_at_once(), AT_ONCE);
}

#[tokio::test]
async fn system_resolver_knows_localhost() {
    let answer = SystemResolver::default()
        .resolve(&"localhost".parse().unwrap())
        .await
        .unwrap();
    assert!(!answer.addrs.is_empty());
    assert!(
        answer.addrs.iter().all(IpAddr::is_loopback),
        "{:?}",
        answer.addrs
    );
}

fn start(answers: &Script, hosts: &[&str]) -> Dns {
    let dns = Dns::start(answers.clone());
    dns.want(&names(hosts));
    dns
}

fn names(hosts: &[&str]) -> BTreeSet<Host> {
    hosts.iter().map(|host| host.parse().unwrap()).collect()
}

async fn next(resolved: &mut watch::Receiver<Arc<Resolved>>) -> String {
    timeout(Duration::from_secs(100_000), resolved.changed())
        .await
        .unwrap()
        .unwrap();
    let resolved = resolved.borrow_and_update();
    let mut text: Vec<_> = resolved
        .iter()
        .map(|(host, addrs)| format!("{host}={addrs:?}"))
        .collect();
    text.sort();
    text.join(" ")
}

fn ok(addrs: &[&str], ttl: u64) -> Result<Answer, String> {
    let addrs = addrs.iter().map(|addr| addr.parse().unwrap()).collect();
    Ok(Answer {
        addrs,
        ttl: Duration::from_secs(ttl),
    })
}

/// Answers in a fixed order; a failure when there is none left.
#[derive(Clone)]
struct Script(Arc<Mutex<State>>);

struct State {
    answers: VecDeque<(&'static str, Result<Answer, String>)>,
    delay: Duration,
    asked: usize,
    now: usize,
    most: usize,
}

impl Script {
    fn new<const N: usize>(answers: [(&'static str, Result<Answer, String>); N]) -> Self {
        let state = State {
            answers: answers.into(),
            delay: Duration::ZERO,
            asked: 0,
            now: 0,
            most: 0,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    fn delay(&self, delay: Duration) {
        self.0.lock().unwrap().delay = delay;
    }

    fn asked(&self) -> usize {
        self.0.lock().unwrap().asked
    }

    fn most_at_once(&self) -> usize {
        self.0.lock().unwrap().most
    }
}

impl Resolve for Script {
    async fn resolve(&self, host: &Host) -> Result<Answer, String> {
        let (answer, delay) = {
            let mut state = self.0.lock().unwrap();
            state.asked += 1;
            state.now += 1;
            state.most = state.most.max(state.now);
            (state.answers.pop_front(), state.delay)
        };
        sleep(delay).await;
        self.0.lock().unwrap().now -= 1;
        let (expected, answer) = answer.ok_or("the script is over")?;
        assert_eq!(host.as_str(), expected);
        answer
    }
}
