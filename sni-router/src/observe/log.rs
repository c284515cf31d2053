//! Log lines on standard error.
//!
//! Nobody who carries connections waits for a terminal, a pipe or a disk: lines are queued, and
//! threads of their own write them. When a queue is full because nobody reads, access lines are
//! dropped (and counted), since there can be as many of them as anybody likes; whoever logs
//! anything else waits, since what explains the trouble must not be lost.

use std::env;
use std::io::{self, IsTerminal};

use clap::ValueEnum;
use thiserror::Error;
use tracing::{Metadata, Subscriber};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::{MakeWriter, SubscriberBuilder};
use tracing_subscriber::util::SubscriberInitExt;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line, the event's fields at its top level.
    Json,
}

/// Begins to log what `filter` lets through; `RUST_LOG` takes its place where it is set.
///
/// What is logged before the answer is dropped has been written when the drop returns, unless
/// that takes more than a second.
pub fn init(format: Format, filter: &str) -> Result<Flush, LogError> {
    let filter = match env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => parse(text, "RUST_LOG")?,
        _ => parse(filter.to_owned(), "--log-level")?,
    };
    let filter = discreet(filter);
    let (queues, flush) = Queues::start(io::stderr);
    let colors = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
    subscriber(format, filter, queues, colors)
        .try_init()
        .map_err(|_| LogError::Twice)?;
    Ok(flush)
}

/// The target of access lines: one a connection, written at its end.
pub const ACCESS: &str = "access";

/// Writes what is queued when it is dropped.
pub struct Flush {
    access: NonBlocking,
    _guards: [WorkerGuard; 2],
}

impl Flush {
    /// Access lines that were dropped so far.
    pub fn dropped(&self) -> usize {
        self.access.error_counter().dropped_lines()
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let dropped = self.dropped();
        if dropped > 0 {
            tracing::warn!(
                "{dropped} access lines were dropped, as standard error was not read fast enough"
            );
        }
    }
}

/// Why nothing is logged.
#[derive(Debug, Error)]
pub enum LogError {
    /// The filter means nothing.
    #[error("{from}: {text:?} is not a log filter: {source} (write info, or info,access=off)")]
    Filter {
        /// Where it comes from.
        from: &'static str,
        /// The filter.
        text: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// A bug.
    #[error("logging was set up twice")]
    Twice,
}

fn parse(text: String, from: &'static str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(&text).map_err(|source| LogError::Filter { from, text, source })
}

/// kube logs an answer it cannot decode as a whole, and that may be a list of Secrets. What it says
/// of its watches is said by us, once.
fn discreet(filter: EnvFilter) -> EnvFilter {
    ["kube_client::client=off", "kube_runtime::watcher=off"]
        .iter()
        .filter_map(|directive| directive.parse().ok())
        .fold(filter, EnvFilter::add_directive)
}

fn subscriber<W>(
    format: Format,
    filter: EnvFilter,
    writer: W,
    colors: bool,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let builder = SubscriberBuilder::default()
        .with_env_filter(filter)
        .with_writer(writer);
    match format {
        Format::Text => Box::new(builder.with_ansi(colors).finish()),
        Format::Json => Box::new(
            builder
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .finish(),
        ),
    }
}

/// One queue for access lines, one for all others, each with its thread.
#[derive(Clone)]
struct Queues {
    access: NonBlocking,
    others: NonBlocking,
}

impl Queues {
    fn start<W: io::Write + Send + 'static>(writer: impl Fn() -> W) -> (Self, Flush) {
        let (access, access_guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(ACCESS_LINES)
            .thread_name("log-access")
            .finish(writer());
        let (others, others_guard) = NonBlockingBuilder::default()
            .lossy(false)
            .buffered_lines_limit(OTHER_LINES)
            .thread_name("log")
            .finish(writer());
        let flush = Flush {
            access: access.clone(),
            _guards: [access_guard, others_guard],
        };
        (Self { access, others }, flush)
    }
}

impl<'w> MakeWriter<'w> for Queues {
    type Writer = NonBlocking;

    fn make_writer(&'w self) -> NonBlocking {
        self.others.clone()
    }

    fn make_writer_for(&'w self, meta: &Metadata<'_>) -> NonBlocking {
        let queue = if meta.target() == ACCESS {
            &self.access
        } else {
            &self.others
        };
        queue.clone()
    }
}

/// Lines of some 400 bytes: at most 25 and 2 MiB.
const ACCESS_LINES: usize = 65_536;
const OTHER_LINES: usize = 4096;

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Condvar, Mutex};

    use serde_json::Value;
    use tracing::{debug, info, info_span, warn};

    use super::*;

    #[test]
    fn json_lines_have_fields_at_the_top_and_no_spans() {
        let lines = logged(Format::Json, "info", || {
            let _span = info_span!("noise", secret = 1).entered();
            info!(target: ACCESS, client = "192.0.2.1:1", bytes_up = 7, "closed");
            debug!("not let through");
        });
        assert_eq!(lines.len(), 1);
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["target"], "access");
        assert_eq!(line["message"], "closed");
        assert_eq!(line["client"], "192.0.2.1:1");
        assert_eq!(line["bytes_up"], 7);
        assert!(!lines[0].contains("noise"), "{}", lines[0]);
    }

    #[test]
    fn text_lines_have_no_colors_when_not_on_a_terminal() {
        let lines = logged(Format::Text, "warn,access=off", || {
            warn!(path = "/x", "cannot read");
            info!(target: ACCESS, "closed");
        });
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("WARN") && lines[0].ends_with("cannot read path=\"/x\""));
        assert!(!lines[0].contains('\x1b'), "{:?}", lines[0]);
    }

    #[test]
    fn filter_is_refused_with_its_origin_when_it_means_nothing() {
        let error = parse("info,access=loud".into(), "--log-level")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("--log-level: \"info,access=loud\""),
            "{error}"
        );
    }

    #[test]
    fn answers_of_api_servers_are_never_logged() {
        let pipe = Pipe::default();
        pipe.open();
        let (queues, flush) = Queues::start(|| pipe.clone());
        for filter in [
            "trace",
            "kube_client::client=trace",
            "kube_client=trace,info",
        ] {
            let filter = discreet(parse(filter.into(), "").unwrap());
            let subscriber = subscriber(Format::Text, filter, queues.clone(), false);
            tracing::subscriber::with_default(subscriber, || {
                warn!(target: "kube_client::client", "PRIVATE");
                warn!("trouble");
            });
        }
        drop(flush);
        assert!(!pipe.text().contains("PRIVATE"));
        assert_eq!(pipe.text().matches("trouble").count(), 2);
    }

    #[test]
    fn access_lines_are_dropped_and_others_kept_when_nobody_reads() {
        let pipe = Pipe::default();
        let (queues, flush) = Queues::start(|| pipe.clone());
        let subscriber = subscriber(
            Format::Text,
            parse("info".into(), "").unwrap(),
            queues,
            false,
        );
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..ACCESS_LINES + 1000 {
                info!(target: ACCESS, "closed");
            }
            for _ in 0..100 {
                warn!("trouble");
            }
        });
        // The writer may hold one line beside the queue.
        let dropped = flush.dropped();
        assert!((999..=1000).contains(&dropped), "{dropped}");
        pipe.open();
        drop(flush);
        let text = pipe.text();
        assert_eq!(text.matches("trouble").count(), 100);
    }

    /// The lines that `log` leads to, with all queues flushed.
    fn logged(format: Format, filter: &str, log: impl FnOnce()) -> Vec<String> {
        let pipe = Pipe::default();
        pipe.open();
        let (queues, flush) = Queues::start(|| pipe.clone());
        let filter = parse(filter.into(), "").unwrap();
        tracing::subscriber::with_default(subscriber(format, filter, queues, false), log);
        drop(flush);
        pipe.text().lines().map(str::to_owned).collect()
    }

    /// Somebody who does not read before it is opened.
    #[derive(Clone, Default)]
    struct Pipe(Arc<Shared>);

    #[derive(Default)]
    struct Shared {
        state: Mutex<State>,
        opened: Condvar,
    }

    #[derive(Default)]
    struct State {
        open: bool,
        text: Vec<u8>,
    }

    impl Pipe {
        fn open(&self) {
            self.0.state.lock().unwrap().open = true;
            self.0.opened.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.state.lock().unwrap().text.clone()).unwrap()
        }
    }

    impl io::Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let state = self.0.state.lock().unwrap();
            let mut state = self
                .0
                .opened
                .wait_while(state, |state| !state.open)
                .unwrap();
            state.text.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
