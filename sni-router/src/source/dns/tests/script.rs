//! A resolver that says what it has been told to say.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::time::sleep;
use tracing::Dispatch;
use tracing::subscriber::NoSubscriber;

use super::*;

/// Both families answered: by those of the addresses that are of it.
pub(super) fn ok(addrs: &[&str], ttl: u64) -> [Answer; 2] {
    let addrs = addrs.iter().map(|addr| addr.parse().unwrap());
    let (v4, v6): (Vec<_>, Vec<_>) = addrs.partition(IpAddr::is_ipv4);
    [v4, v6].map(|addrs| match addrs.is_empty() {
        true => Answer::Nothing,
        false => Answer::Addrs(addrs, Duration::from_secs(ttl)),
    })
}

/// The IPv4 address only; IPv6 failed.
pub(super) fn v4_only(addr: &str, ttl: u64) -> [Answer; 2] {
    let [v4, _] = ok(&[addr], ttl);
    [v4, Answer::Failed("refused".into())]
}

pub(super) fn failed() -> [Answer; 2] {
    std::array::from_fn(|_| Answer::Failed("refused".into()))
}

pub(super) const NOTHING: [Answer; 2] = [Answer::Nothing, Answer::Nothing];

/// Answers in a fixed order, and always the same when there is none left: a failure, if not told
/// otherwise.
#[derive(Clone)]
pub(super) struct Script(Arc<Mutex<State>>);

struct State {
    answers: VecDeque<(&'static str, [Answer; 2])>,
    otherwise: [Answer; 2],
    delay: Duration,
    asked: usize,
    now: usize,
    most: usize,
}

impl Script {
    pub(super) fn new<const N: usize>(answers: [(&'static str, [Answer; 2]); N]) -> Self {
        let state = State {
            answers: answers.into(),
            otherwise: failed(),
            delay: Duration::ZERO,
            asked: 0,
            now: 0,
            most: 0,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(super) fn otherwise(&self, answers: [Answer; 2]) {
        self.0.lock().unwrap().otherwise = answers;
    }

    pub(super) fn delay(&self, delay: Duration) {
        self.0.lock().unwrap().delay = delay;
    }

    pub(super) fn asked(&self) -> usize {
        self.0.lock().unwrap().asked
    }

    pub(super) fn most_at_once(&self) -> usize {
        self.0.lock().unwrap().most
    }
}

impl Resolve for Script {
    async fn resolve(&self, host: &Host) -> [Answer; 2] {
        let (answer, delay) = {
            let mut state = self.0.lock().unwrap();
            state.asked += 1;
            state.now += 1;
            state.most = state.most.max(state.now);
            (state.answers.pop_front(), state.delay)
        };
        sleep(delay).await;
        self.0.lock().unwrap().now -= 1;
        let Some((expected, answers)) = answer else {
            return self.0.lock().unwrap().otherwise.clone();
        };
        assert_eq!(host.as_str(), expected);
        answers
    }
}

/// What was logged.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// What this thread logs, as long as what is returned lives.
    pub(super) fn capture(&self) -> impl Sized {
        let writer = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        // Where it is the only subscriber of the process, another test's thread, which has none,
        // can turn a line off that it is the first to come to (tracing-core, callsite.rs).
        let other = Dispatch::new(NoSubscriber::default());
        (other, tracing::subscriber::set_default(subscriber))
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
