//! Lines as they are written, and queues that nobody empties.

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
fn word_that_is_no_level_is_refused() {
    for text in [
        "debg",
        "verbose",
        "access",
        "info, acces",
        "access=info,wran",
    ] {
        let error = parse(text.into(), "--log-level").unwrap_err().to_string();
        assert!(
            error.contains("is no level (write info, or info,access=off)"),
            "{error}"
        );
    }
    for text in [
        "info",
        "WARN,access=off",
        "off",
        "",
        "info,",
        "access=trace",
        "[connection]=debug",
    ] {
        assert!(parse(text.into(), "--log-level").is_ok(), "{text}");
    }
}

#[test]
fn filter_can_be_changed_and_a_bad_one_changes_nothing() {
    let pipe = Pipe::default();
    pipe.open();
    let (queues, mut log) = Queues::start(pipe.clone(), pipe.clone(), None);
    let (subscriber, reload) = subscriber(TEXT, parse("info".into(), "").unwrap(), queues, false);
    log.reload = Some(reload);
    let filter = log.filter();
    tracing::subscriber::with_default(subscriber, || {
        debug!("first");
        filter.change("debug,access=off").unwrap();
        debug!("second");
        info!(target: ACCESS, "third");
        assert!(filter.change("access=loud").is_err());
        debug!("fourth");
    });
    drop(log);
    let text = pipe.text();
    let seen = ["first", "second", "third", "fourth"].map(|word| text.contains(word));
    assert_eq!(seen, [false, true, false, true]);
}

#[test]
fn answers_of_api_servers_are_never_logged() {
    let pipe = Pipe::default();
    pipe.open();
    let (queues, flush) = Queues::start(pipe.clone(), pipe.clone(), None);
    for filter in [
        "trace",
        "kube_client::client=trace",
        "kube_client=trace,info",
    ] {
        let filter = discreet(parse(filter.into(), "").unwrap());
        let (subscriber, _) = subscriber(TEXT, filter, queues.clone(), false);
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
    let (queues, flush) = Queues::start(pipe.clone(), pipe.clone(), None);
    let (subscriber, _) = subscriber(TEXT, parse("info".into(), "").unwrap(), queues, false);
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

#[test]
fn access_lines_with_a_file_are_json_and_there_whatever_the_filter_says() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("access.log");
    let file = Arc::new(AccessFile::open(&path).unwrap());
    let pipe = Pipe::default();
    pipe.open();
    let (queues, log) = Queues::start(file.writer(), pipe.clone(), Some(file));
    let formats = Formats {
        access: Format::Json,
        ..TEXT
    };
    for filter in ["warn", "warn,access=off", "off"] {
        let filter = parse(filter.into(), "").unwrap();
        let filter = filter.add_directive(everything_of_access());
        let (subscriber, _) = subscriber(formats, filter, queues.clone(), true);
        tracing::subscriber::with_default(subscriber, || {
            info!(target: ACCESS, client = "192.0.2.1:1", "closed");
            warn!("trouble");
            info!("not let through");
        });
    }
    drop(log);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line["client"] == "192.0.2.1:1"));
    assert_eq!(pipe.text().matches("trouble").count(), 2);
    assert_eq!(pipe.text().lines().count(), 2);
}

/// The lines that `log` leads to, with all queues flushed.
fn logged(format: Format, filter: &str, log: impl FnOnce()) -> Vec<String> {
    let pipe = Pipe::default();
    pipe.open();
    let (queues, flush) = Queues::start(pipe.clone(), pipe.clone(), None);
    let filter = parse(filter.into(), "").unwrap();
    let formats = Formats {
        access: format,
        others: format,
    };
    tracing::subscriber::with_default(subscriber(formats, filter, queues, false).0, log);
    drop(flush);
    pipe.text().lines().map(str::to_owned).collect()
}

const TEXT: Formats = Formats {
    access: Format::Text,
    others: Format::Text,
};

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
