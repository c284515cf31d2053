mod script;

use tokio::time::{sleep, timeout};

use self::script::*;
use super::name::{TTL_LEAST, TTL_MOST};
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
        ("a.test", failed()),
        ("a.test", failed()),
        ("a.test", failed()),
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
async fn last_addresses_of_one_family_stay_when_it_alone_fails() {
    let answers = Script::new([
        ("a.test", ok(&["192.0.2.1", "2001:db8::1"], 600)),
        ("a.test", v4_only("192.0.2.2", 600)),
        ("a.test", v4_only("192.0.2.2", 600)),
        ("a.test", ok(&["192.0.2.2", "2001:db8::2"], 600)),
    ]);
    let began = Instant::now();
    let dns = start(&answers, &["a.test"]);
    let mut resolved = dns.resolved();
    assert_eq!(next(&mut resolved).await, "a.test=[192.0.2.1, 2001:db8::1]");
    assert_eq!(next(&mut resolved).await, "a.test=[192.0.2.2, 2001:db8::1]");
    // It is asked for by the schedule of failures, and not when the other one expires.
    assert_eq!(next(&mut resolved).await, "a.test=[192.0.2.2, 2001:db8::2]");
    assert_eq!(began.elapsed().as_secs(), 600 + 1 + 2);
}

#[tokio::test(start_paused = true)]
async fn one_family_is_kept_fresh_when_the_other_goes_on_failing() {
    let answers = Script::new([]);
    answers.otherwise(v4_only("192.0.2.1", 10));
    let _dns = start(&answers, &["a.test"]);
    sleep(Duration::from_secs(1000)).await;
    let asked = answers.asked();
    assert!((95..=110).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn one_family_is_without_addresses_when_it_has_no_records_and_the_other_has() {
    let answers = Script::new([
        ("a.test", ok(&["192.0.2.1", "2001:db8::1"], 600)),
        ("a.test", ok(&["192.0.2.1"], 600)),
        ("a.test", ok(&["192.0.2.2"], 600)),
    ]);
    let began = Instant::now();
    let dns = start(&answers, &["a.test"]);
    let mut resolved = dns.resolved();
    next(&mut resolved).await;
    assert_eq!(next(&mut resolved).await, "a.test=[192.0.2.1]");
    // That is no failure.
    assert_eq!(next(&mut resolved).await, "a.test=[192.0.2.2]");
    assert_eq!(began.elapsed().as_secs(), 600 + 600);
}

#[tokio::test(start_paused = true)]
async fn look_up_counts_as_failed_when_one_family_fails() {
    let answers = Script::new([
        ("a.test", ok(&["192.0.2.1"], 600)),
        ("a.test", v4_only("192.0.2.2", 600)),
    ]);
    let dns = start(&answers, &["a.test"]);
    let mut resolved = dns.resolved();
    next(&mut resolved).await;
    next(&mut resolved).await;
    assert_eq!(dns.lookups().answered.load(Ordering::Relaxed), 1);
    assert_eq!(dns.lookups().failed.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn addresses_are_dropped_when_dns_says_three_times_that_there_are_none() {
    let answers = Script::new([
        ("a.test", ok(&["192.0.2.1", "2001:db8::1"], 10)),
        ("a.test", NOTHING),
        ("a.test", NOTHING),
        ("a.test", NOTHING),
        ("a.test", NOTHING),
        ("a.test", ok(&["192.0.2.2"], 10)),
    ]);
    let began = Instant::now();
    let dns = start(&answers, &["a.test"]);
    let mut resolved = dns.resolved();
    next(&mut resolved).await;
    assert_eq!(next(&mut resolved).await, "a.test=[]");
    assert_eq!(began.elapsed().as_secs(), 10 + 1 + 2);
    assert_eq!(next(&mut resolved).await, "a.test=[192.0.2.2]");
    assert_eq!(began.elapsed().as_secs(), 10 + 1 + 2 + 4 + 8);
}

#[tokio::test(start_paused = true)]
async fn addresses_stay_when_not_three_answers_in_a_row_say_that_there_are_none() {
    for between in [failed(), ok(&["192.0.2.1"], 10)] {
        let answers = Script::new([
            ("a.test", ok(&["192.0.2.1"], 10)),
            ("a.test", NOTHING),
            ("a.test", NOTHING),
            ("a.test", between),
            ("a.test", NOTHING),
            ("a.test", NOTHING),
            ("a.test", ok(&["192.0.2.2"], 10)),
        ]);
        let dns = start(&answers, &["a.test"]);
        let mut resolved = dns.resolved();
        assert_eq!(next(&mut resolved).await, "a.test=[192.0.2.1]");
        assert_eq!(next(&mut resolved).await, "a.test=[192.0.2.2]");
    }
}

#[tokio::test(start_paused = true)]
async fn only_one_family_is_dropped_when_the_other_fails() {
    let [nothing, _] = NOTHING;
    let [_, refused] = failed();
    let answers = Script::new([("a.test", ok(&["192.0.2.1", "2001:db8::1"], 10))]);
    answers.otherwise([nothing, refused]);
    let dns = start(&answers, &["a.test"]);
    let mut resolved = dns.resolved();
    next(&mut resolved).await;
    assert_eq!(next(&mut resolved).await, "a.test=[2001:db8::1]");
    sleep(Duration::from_secs(3600)).await;
    assert!(!resolved.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn log_says_once_that_addresses_are_dropped_and_once_that_they_are_back() {
    let lines = Lines::default();
    let _guards = lines.capture();
    let answers = Script::new([
        ("a.test", ok(&["192.0.2.1"], 10)),
        ("a.test", NOTHING),
        ("a.test", NOTHING),
        ("a.test", NOTHING),
        ("a.test", NOTHING),
        ("a.test", NOTHING),
        ("a.test", v4_only("192.0.2.2", 10)),
        ("a.test", v4_only("192.0.2.2", 10)),
        ("a.test", ok(&["192.0.2.3"], 100)),
    ]);
    let dns = start(&answers, &["a.test"]);
    let mut resolved = dns.resolved();
    while next(&mut resolved).await != "a.test=[192.0.2.3]" {}
    let expected = [
        "cannot resolve a.test: there is no such name, or no address of it; these addresses are in force: [192.0.2.1]",
        "[192.0.2.1] of a.test dropped: DNS said 3 times that there are none",
        "a.test has addresses again: [192.0.2.2]; still: AAAA: refused",
        "a.test resolves again, to [192.0.2.3]",
    ];
    let lines = lines.text();
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.ends_with(expected), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn name_is_there_without_addresses_when_it_never_resolved() {
    let answers = Script::new([("a.test", NOTHING)]);
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
async fn asked_once_ends_when_the_last_name_has_an_outcome() {
    // Those of the second turn are asked for when those of the first are done.
    let hosts: Vec<_> = (0..=AT_ONCE).map(|i| format!("h{i}.test")).collect();
    let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
    for otherwise in [ok(&["192.0.2.1"], 60), NOTHING, failed()] {
        let answers = Script::new([]);
        answers.otherwise(otherwise);
        answers.delay(Duration::from_millis(10));
        let began = Instant::now();
        let dns = start(&answers, &hosts);
        dns.asked_once(&names(&hosts)).await;
        let took = began.elapsed();
        assert!((20..30).contains(&took.as_millis()), "{took:?}");
        assert_eq!(dns.resolved().borrow().len(), hosts.len());
        // Neither are those waited for that have an outcome, nor is nobody.
        dns.asked_once(&names(&hosts)).await;
        dns.asked_once(&names(&[])).await;
        assert_eq!(began.elapsed(), took);
    }
}

#[tokio::test(start_paused = true)]
async fn name_is_asked_for_again_when_its_look_up_panicked() {
    // The script panics when another name is asked for than its next one.
    let answers = Script::new([
        ("other.test", ok(&["192.0.2.9"], 60)),
        ("a.test", ok(&["192.0.2.1"], 60)),
    ]);
    let began = Instant::now();
    let dns = start(&answers, &["a.test"]);
    let mut resolved = dns.resolved();
    assert_eq!(next(&mut resolved).await, "a.test=[]");
    assert_eq!(next(&mut resolved).await, "a.test=[192.0.2.1]");
    assert_eq!(began.elapsed().as_secs(), 1);
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
