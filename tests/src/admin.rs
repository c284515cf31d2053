//! The router's admin API, over its Unix socket: reachable from every network namespace.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Gets a path; `None` while nobody answers.
pub fn get(socket: &Path, path: &str) -> Option<Response> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    parse(&text)
}

/// The value of a metric with these labels (`name{a="b"}`, as it is written), 0 when it is absent:
/// a counter nobody has touched is not listed.
pub fn metric(metrics: &str, series: &str) -> f64 {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| {
        value
            .trim()
            .parse()
            .unwrap_or_else(|e| panic!("{series}: {value:?}: {e}"))
    })
}

fn parse(text: &str) -> Option<Response> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    assert!(!chunked, "the lab's HTTP client reads whole bodies only");
    Some(Response {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_is_found_by_its_whole_name_and_labels() {
        let text = "# HELP a\na_total{x=\"1\"} 3\na_total{x=\"12\"} 4\na 5\n";
        assert_eq!(metric(text, "a_total{x=\"1\"}"), 3.0);
        assert_eq!(metric(text, "a"), 5.0);
        assert_eq!(metric(text, "a_total{x=\"2\"}"), 0.0);
    }
}
