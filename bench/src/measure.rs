//! What is measured: work done between two moments, the CPU time that all of the machine spent
//! meanwhile, and how long each piece of work took.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// CPU time spent since the machine, or the process, was started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Cpu {
    /// By all CPUs, on anything: also interrupts and kernel threads. From /proc/stat, which counts
    /// in hundredths of a second.
    machine: Duration,
    /// In which this virtual machine waited for a CPU of its host.
    stolen: Duration,
    client: Duration,
    endpoint: Duration,
}

impl Cpu {
    fn now(endpoint: Option<u32>) -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let (machine, stolen) = machine(&stat).context("no cpu line in /proc/stat")?;
        let endpoint = endpoint.map(|pid| process(&pid.to_string())).transpose()?;
        Ok(Self {
            machine,
            stolen,
            client: process("self")?,
            endpoint: endpoint.unwrap_or_default(),
        })
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            machine: self.machine.saturating_sub(earlier.machine),
            stolen: self.stolen.saturating_sub(earlier.stolen),
            client: self.client.saturating_sub(earlier.client),
            endpoint: self.endpoint.saturating_sub(earlier.endpoint),
        }
    }
}

/// `cpu user nice system idle iowait irq softirq steal …` (proc(5)): busy and stolen time.
fn machine(stat: &str) -> Option<(Duration, Duration)> {
    let rest = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = rest
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = *ticks else {
        return None;
    };
    // USER_HZ is 100 on every architecture that Rust knows.
    let time = |ticks| Duration::from_millis(10 * ticks);
    Some((time(user + nice + system + irq + softirq), time(steal)))
}

/// Time of a process with one thread, to the nanosecond (kernel: Documentation/scheduler/
/// sched-stats.rst).
fn process(pid: &str) -> Result<Duration> {
    let path = format!("/proc/{pid}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let nanoseconds = text.split(' ').next().and_then(|field| field.parse().ok());
    Ok(Duration::from_nanos(nanoseconds.context(path)?))
}

/// Work that went wrong, by what went wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Errors {
    /// Connections that were refused, also by an alert, or reset before the first byte of the
    /// endpoint.
    pub refused: u64,
    /// Connections that ended before all was said.
    pub lost: u64,
    /// Connections that waited in vain for [`PATIENCE`].
    pub slow: u64,
    /// Connections with bytes that were not those expected.
    pub corrupt: u64,
}

impl Errors {
    fn all(self) -> u64 {
        self.refused + self.lost + self.slow + self.corrupt
    }
}

/// Counts between the end of the warm-up and the end.
pub struct Meter {
    begin: Instant,
    end: Instant,
    endpoint: Option<u32>,
    at_begin: Option<(Instant, Cpu)>,
    spent: Option<(Duration, Cpu)>,
    bytes: u64,
    /// How long each piece of work took, in nanoseconds.
    took: Histogram<u64>,
    /// Also those of the warm-up.
    pub errors: Errors,
}

impl Meter {
    /// Starts the warm-up. `endpoint` is the process id of the endpoint.
    pub fn start(warm_up: Duration, measured: Duration, endpoint: Option<u32>) -> Result<Self> {
        let begin = Instant::now() + warm_up;
        Ok(Self {
            begin,
            end: begin + measured,
            endpoint,
            at_begin: None,
            spent: None,
            bytes: 0,
            // Three digits, up to twice the longest wait.
            took: Histogram::new_with_max(2 * PATIENCE.as_nanos() as u64, 3)?,
            errors: Errors::default(),
        })
    }

    /// Whether to go on; to be called often.
    pub fn goes_on(&mut self, now: Instant) -> Result<bool> {
        match self.at_begin {
            None if now >= self.begin => {
                (self.bytes, self.spent) = (0, None);
                self.took.reset();
                self.at_begin = Some((now, Cpu::now(self.endpoint)?));
            }
            Some((begin, cpu)) if now >= self.end => {
                let spent = Cpu::now(self.endpoint)?.since(cpu);
                self.spent = Some((now - begin, spent));
                return Ok(false);
            }
            _ => {}
        }
        Ok(true)
    }

    /// Counts bytes.
    pub fn moved(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Counts a piece of work.
    pub fn did(&mut self, took: Duration) {
        self.took
            .saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// All of it, with times in seconds and latencies in microseconds.
    pub fn report(&self) -> Result<Value> {
        let (elapsed, cpu) = self.spent.context("it was not measured to the end")?;
        let latency = |quantile| self.took.value_at_quantile(quantile) as f64 / 1e3;
        let count = self.took.len();
        let errors = self.errors;
        Ok(json!({
            "elapsed_s": elapsed.as_secs_f64(),
            "bytes": self.bytes,
            "count": count,
            "machine_cpu_s": cpu.machine.as_secs_f64(),
            "stolen_cpu_s": cpu.stolen.as_secs_f64(),
            "client_cpu_s": cpu.client.as_secs_f64(),
            "endpoint_cpu_s": cpu.endpoint.as_secs_f64(),
            "p50_us": (count > 0).then(|| latency(0.5)),
            "p99_us": (count > 0).then(|| latency(0.99)),
            "p999_us": (count > 0).then(|| latency(0.999)),
            "errors": errors.all(),
            "refused": errors.refused,
            "lost": errors.lost,
            "slow": errors.slow,
            "corrupt": errors.corrupt,
        }))
    }
}

/// How long anything may take before it counts as an error.
pub const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_is_busy_with_all_but_idling_and_waiting() {
        let stat = "cpu  1 2 4 1000 1000 8 16 32 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n";
        let expected = (Duration::from_millis(310), Duration::from_millis(320));
        assert_eq!(machine(stat), Some(expected));
        assert_eq!(machine("cpu  1 2 3\n"), None);
    }

    #[test]
    fn own_time_grows_when_this_thread_works() {
        let before = Cpu::now(None).unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(200) {
            std::hint::spin_loop();
        }
        assert!(Cpu::now(None).unwrap().machine > before.machine);
    }

    #[test]
    fn warm_up_is_not_counted_but_its_errors_are() {
        let (warm_up, measured) = (Duration::from_secs(1), Duration::from_secs(2));
        let mut meter = Meter::start(warm_up, measured, None).unwrap();
        let start = Instant::now();
        assert!(meter.goes_on(start).unwrap());
        meter.moved(5);
        meter.did(Duration::from_micros(900));
        meter.errors.lost += 1;
        assert!(meter.report().is_err());
        assert!(meter.goes_on(start + warm_up).unwrap());
        meter.moved(7);
        meter.did(Duration::from_micros(50));
        assert!(!meter.goes_on(start + warm_up + measured).unwrap());
        let report = meter.report().unwrap();
        assert_eq!((&report["bytes"], &report["count"]), (&json!(7), &json!(1)));
        assert_eq!((&report["errors"], &report["lost"]), (&json!(1), &json!(1)));
        let p50 = report["p50_us"].as_f64().unwrap();
        assert!((49.9..50.2).contains(&p50), "{p50}");
    }
}
