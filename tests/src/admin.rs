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

/// The sum of a metric's series that have these labels among theirs, in Prometheus' text format; 0
/// when there is none, since a counter that nothing has touched may not be listed.
pub fn metric(metrics: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let values = metrics.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, rest) = series.split_once('{').unwrap_or((series, ""));
        let has = |(label, value): &(&str, &str)| {
            let pair = format!("{label}=\"{value}\"");
            rest.trim_end_matches('}').split(',').any(|it| it == pair)
        };
        (found == name && labels.iter().all(has)).then_some(value)
    });
    values
        .map(|value| value.parse::<f64>().expect("a metric's value"))
        .sum()
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
    fn metric_is_the_sum_of_the_series_with_these_labels() {
        let text = "# HELP a\na{x=\"1\",y=\"1\"} 3\na{x=\"1\",y=\"2\"} 4\na{x=\"12\"} 8\nab 5\n";
        assert_eq!(metric(text, "a", &[("x", "1")]), 7.0);
        assert_eq!(metric(text, "a", &[("y", "2"), ("x", "1")]), 4.0);
        assert_eq!(metric(text, "a", &[]), 15.0);
        assert_eq!(metric(text, "a", &[("x", "3")]), 0.0);
        assert_eq!(metric(text, "ab", &[]), 5.0);
    }
}
