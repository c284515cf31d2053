//! Log lines on standard error, and access lines there or in a file of their own.
//!
//! Nobody who carries connections waits for a terminal, a pipe or a disk: lines are queued, and
//! threads of their own write them. When a queue is full because nobody reads, access lines are
//! dropped (and counted), since there can be as many of them as anybody likes; whoever logs
//! anything else waits, since what explains the trouble must not be lost.

mod file;
mod formats;

use std::env;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use clap::ValueEnum;
use thiserror::Error;
use tracing::{Metadata, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{Directive, LevelFilter};
use tracing_subscriber::fmt::{MakeWriter, SubscriberBuilder};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

pub use self::file::AccessFile;
use self::formats::Formats;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line, the event's fields at its top level.
    Json,
}

/// Begins to log what `filter` lets through; `RUST_LOG` takes its place where it is set. Access lines
/// go to the file at `access` if there is one, as JSON and whatever the filter says; `-` is standard
/// output.
///
/// What is logged before the answer is dropped has been written when the drop returns, unless
/// that takes more than a second.
pub fn init(format: Format, filter: &str, access: Option<&Path>) -> Result<Log, LogError> {
    let filter = match env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => parse(text, "RUST_LOG")?,
        _ => parse(filter.to_owned(), "--log-level")?,
    };
    let mut filter = discreet(filter);
    let file = access.map(AccessFile::open).transpose()?.map(Arc::new);
    if file.is_some() {
        filter = filter.add_directive(everything_of_access());
    }
    let (queues, mut log) = match file {
        Some(file) => Queues::start(file.writer(), io::stderr(), Some(file)),
        None => Queues::start(io::stderr(), io::stderr(), None),
    };
    let _ = DROPS.set((queues.access.error_counter(), log.file()));
    let colors = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
    let access = match log.file {
        Some(_) => Format::Json,
        None => format,
    };
    let formats = Formats {
        access,
        others: format,
    };
    let (subscriber, reload) = subscriber(formats, filter, queues, colors);
    subscriber.try_init().map_err(|_| LogError::Twice)?;
    log.reload = Some(reload);
    Ok(log)
}

/// Access lines that were lost so far: that came faster than they were written, or could not be.
pub fn lost_access_lines() -> u64 {
    DROPS.get().map_or(0, |(dropped, file)| {
        let unwritten = file.as_ref().map_or(0, |file| file.lost());
        dropped.dropped_lines() as u64 + unwritten
    })
}

/// A process logs in one way only.
static DROPS: OnceLock<(ErrorCounter, Option<Arc<AccessFile>>)> = OnceLock::new();

/// The target of access lines: one a connection, written at its end.
pub const ACCESS: &str = "access";

/// The log as long as it is written. When this is dropped, what is queued is written.
pub struct Log {
    access: NonBlocking,
    file: Option<Arc<AccessFile>>,
    reload: Option<Reload>,
    access_guard: Option<WorkerGuard>,
    _others_guard: WorkerGuard,
}

impl Log {
    /// Access lines that were dropped so far, since they came faster than they were written.
    pub fn dropped(&self) -> usize {
        self.access.error_counter().dropped_lines()
    }

    /// The file of access lines, if they have one.
    pub fn file(&self) -> Option<Arc<AccessFile>> {
        self.file.clone()
    }

    /// What is logged, to be changed.
    pub fn filter(&self) -> Filter {
        Filter {
            reload: self.reload.clone(),
            has_file: self.file.is_some(),
        }
    }
}

/// What is logged.
#[derive(Clone)]
pub struct Filter {
    reload: Option<Reload>,
    has_file: bool,
}

impl Filter {
    /// Logs what this filter lets through from now on.
    pub fn change(&self, filter: &str) -> Result<(), LogError> {
        let mut filter = discreet(parse(filter.to_owned(), "filter")?);
        if self.has_file {
            filter = filter.add_directive(everything_of_access());
        }
        let reload = self.reload.as_ref().ok_or(LogError::Gone)?;
        reload(filter).map_err(|_| LogError::Gone)
    }
}

/// Puts another filter in the place of the one that is used.
type Reload = Arc<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

impl Drop for Log {
    fn drop(&mut self) {
        // First, so that lines which cannot be written are in the count.
        self.access_guard.take();
        let dropped = self.dropped();
        if dropped > 0 {
            tracing::warn!(
                "{dropped} access lines were dropped, as they could not be written fast enough"
            );
        }
        if let Some(file) = &self.file {
            file.sum_up();
        }
    }
}

/// Why nothing is logged.
#[derive(Debug, Error)]
pub enum LogError {
    /// The filter means nothing.
    #[error("{from}: {text:?} is not a log filter: {why} (write info, or info,access=off)")]
    Filter {
        /// Where it comes from.
        from: &'static str,
        /// The filter.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// The file of access lines cannot be opened.
    #[error("--access-log: cannot open {}", path.display())]
    Access {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A bug.
    #[error("logging was set up twice")]
    Twice,
    /// A bug as well.
    #[error("there is no log whose filter could be changed")]
    Gone,
}

fn parse(text: String, from: &'static str) -> Result<EnvFilter, LogError> {
    let parsed = match lone_target(&text) {
        Some(word) => Err(format!("{word:?} is no level")),
        None => EnvFilter::try_new(&text).map_err(|error| error.to_string()),
    };
    parsed.map_err(|why| LogError::Filter { from, text, why })
}

/// A word that is no level. [`EnvFilter`] takes it for a target, and so a misspelt level for nothing
/// to be logged at all.
fn lone_target(text: &str) -> Option<&str> {
    text.split(',')
        .map(str::trim)
        .find(|word| !word.contains(['=', '[']) && word.parse::<LevelFilter>().is_err())
}

/// kube logs an answer it cannot decode as a whole, and that may be a list of Secrets. What it says
/// of its watches is said by us, once.
fn discreet(filter: EnvFilter) -> EnvFilter {
    ["kube_client::client=off", "kube_runtime::watcher=off"]
        .iter()
        .filter_map(|directive| directive.parse().ok())
        .fold(filter, EnvFilter::add_directive)
}

/// Access lines that have a file are wanted, whatever is to be seen on standard error.
fn everything_of_access() -> Directive {
    let directive = format!("{ACCESS}={}", LevelFilter::INFO);
    directive.parse().expect("a target and a level")
}

fn subscriber<W>(
    formats: Formats,
    filter: EnvFilter,
    writer: W,
    colors: bool,
) -> (Box<dyn Subscriber + Send + Sync>, Reload)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let builder = SubscriberBuilder::default()
        .with_ansi(colors && formats.others == Format::Text)
        .with_writer(writer)
        .event_format(formats::Lines::new(formats))
        .with_env_filter(filter)
        .with_filter_reloading();
    let handle = builder.reload_handle();
    let reload = Arc::new(move |filter| handle.reload(filter));
    (Box::new(builder.finish()), reload)
}

/// One queue for access lines, one for all others, each with its thread.
#[derive(Clone)]
struct Queues {
    access: NonBlocking,
    others: NonBlocking,
}

impl Queues {
    fn start(
        access: impl io::Write + Send + 'static,
        others: impl io::Write + Send + 'static,
        file: Option<Arc<AccessFile>>,
    ) -> (Self, Log) {
        let (access, access_guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(ACCESS_LINES)
            .thread_name("log-access")
            .finish(access);
        let (others, others_guard) = NonBlockingBuilder::default()
            .lossy(false)
            .buffered_lines_limit(OTHER_LINES)
            .thread_name("log")
            .finish(others);
        let log = Log {
            access: access.clone(),
            file,
            reload: None,
            access_guard: Some(access_guard),
            _others_guard: others_guard,
        };
        (Self { access, others }, log)
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

/// Lines of some 600 bytes: at most 40 and 2 MiB.
const ACCESS_LINES: usize = 65_536;
const OTHER_LINES: usize = 4096;

#[cfg(test)]
mod tests;
