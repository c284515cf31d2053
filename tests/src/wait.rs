//! Waiting for a condition with a deadline.

use std::env;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for something that takes milliseconds when all is well.
pub const SOON: Duration = Duration::from_secs(10);

/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(10);

/// The variable that says how many times slower than usual the machine is: one that is emulated, say.
pub const SLOWNESS: &str = "SNI_ROUTER_TESTS_SLOWNESS";

/// Looks at `probe` until it gives a value, and panics with `what` when it gave none in time.
#[track_caller]
pub fn until_some<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let limit = limit * *TIMES;
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        thread::sleep(PERIOD);
    }
}

/// Looks at `probe` until it holds, and panics with `what` when it did not in time.
#[track_caller]
pub fn until(what: &str, limit: Duration, mut probe: impl FnMut() -> bool) {
    until_some(what, limit, || probe().then_some(()));
}

static TIMES: LazyLock<u32> = LazyLock::new(|| {
    let times = env::var(SLOWNESS).ok();
    times.map_or(1, |times| times.parse().expect(SLOWNESS))
});
