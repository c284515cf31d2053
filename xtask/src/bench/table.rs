//! Results as people read them: Markdown, and what has changed since another run.

use std::fmt::Write as _;

use serde_json::Value;

use super::extra::{NS_PER_PACKET, SYSCALLS, counts_syscalls, takes_kernel_time};
use super::load::{Load, Setting, Work};
use super::rows::{Row, Rows};
use super::scraped::{SCRAPED_SHARE, UNSCRAPED_RATE, UNSCRAPED_SLOWEST};
use super::together::{HEADS, Together};

/// A table for each kind of work.
pub fn markdown(rows: &Rows) -> String {
    let mut text = String::new();
    for load in rows.loads() {
        let columns = columns(&load);
        let mut heads: Vec<_> = columns.iter().map(|column| column.head).collect();
        if is_bulk(&load) {
            heads.insert(1, "more than direct");
        }
        let _ = writeln!(text, "### {}\n\n{}\n", load.name, describe(&load));
        let _ = writeln!(text, "| system | {} | errors |", heads.join(" | "));
        let _ = writeln!(text, "| --- |{} ---: |", " ---: |".repeat(heads.len()));
        for row in rows.of(&load) {
            let mut cells: Vec<_> = columns.iter().map(|column| column.cell(row)).collect();
            if is_bulk(&load) {
                let added = rows.added(row).get("cpu_s_per_gb").copied();
                cells.insert(
                    1,
                    added.map_or("–".to_owned(), |added| format!("{added:.2}")),
                );
            }
            let name = match row.is_valid() {
                true => row.system.key(),
                false => format!("~~{}~~ (invalid)", row.system.key()),
            };
            let errors = row.errors();
            let _ = writeln!(text, "| {name} | {} | {errors} |", cells.join(" | "));
        }
        text.push('\n');
    }
    text + &long_streams(rows, false) + &long_streams(rows, true)
}

/// What no single load can say.
fn long_streams(rows: &Rows, is_sampled: bool) -> String {
    let all = Together::of(rows, is_sampled);
    if all.is_empty() {
        return String::new();
    }
    let (head, suffix) = match is_sampled {
        true => ("Sampled long streams", "-sampled"),
        false => ("Long streams", ""),
    };
    let mut text = format!(
        "### {head} together\n\nCPU per GB of all loads `down-N{suffix}` and `up-N{suffix}`: what a system took, divided by what another \
         one took in the same round, as the mean over rounds ± its standard error.\n\n\
         | {} |\n| --- |{}\n",
        HEADS.join(" | "),
        " ---: |".repeat(HEADS.len() - 1)
    );
    for one in all {
        let _ = writeln!(text, "| {} |", one.cells().join(" | "));
    }
    text.push('\n');
    text
}

/// Whether clients and endpoints take so much of the CPU that what a router takes hides behind it.
fn is_bulk(load: &Load) -> bool {
    matches!(load.work, Work::Down | Work::Up)
}

/// One line of what a load is.
fn describe(load: &Load) -> String {
    let (streams, size, hosts) = (load.streams, load.size, load.hosts);
    let what = match load.work {
        Work::Down => format!("{streams} long streams from the endpoint to the client"),
        Work::Up => format!("{streams} long streams from the client to the endpoint"),
        Work::Connect | Work::Reset => {
            let pace = match load.rate {
                Some(rate) => format!("{rate} a second"),
                None => format!("{streams} at a time"),
            };
            let end = match load.work {
                Work::Connect => "FIN",
                _ => "RST",
            };
            format!("New connections, {pace}, {size} bytes back, {end}")
        }
        Work::Exchange => format!("{size} bytes there and back, on {streams} connections"),
        Work::Idle => format!("{streams} connections that do nothing"),
        Work::Cluster => {
            return format!(
                "A Kubernetes API with {hosts} Ingresses and {} endpoints.",
                hosts * 4
            );
        }
    };
    let reloaded = match load.setting {
        Setting::Reloaded => "; the configuration changes every second",
        Setting::Scraped => "; metrics and connections are asked for every second, or not",
        _ => "",
    };
    let tls = if load.is_tls { "; TLS" } else { "" };
    let congestion = load.congestion.map(|name| format!("; {name}"));
    let congestion = congestion.unwrap_or_default();
    let sampled = match load.is_sampled {
        true => "; one read of sixteen is checked, the others dropped in the kernel",
        false => "",
    };
    format!("{what}; {hosts} hosts{reloaded}{tls}{congestion}{sampled}.")
}

struct Column {
    key: &'static str,
    head: &'static str,
    digits: usize,
}

impl Column {
    /// `12.3 (11.9–12.8)`: the median, and the spread where there are rounds to have one.
    fn cell(&self, row: &Row) -> String {
        let digits = self.digits;
        let Some(median) = row.median(self.key) else {
            return "–".to_owned();
        };
        let scale = if self.head.ends_with('%') { 100.0 } else { 1.0 };
        match row.spread(self.key) {
            Some((least, most)) if least < most => format!(
                "{:.digits$} ({:.digits$}–{:.digits$})",
                median * scale,
                least * scale,
                most * scale
            ),
            _ => format!("{:.digits$}", median * scale),
        }
    }
}

fn columns(load: &Load) -> Vec<Column> {
    let column = |key, head, digits| Column { key, head, digits };
    let mut columns = match load.work {
        Work::Down | Work::Up => vec![
            column("cpu_s_per_gb", "CPU s/GB", 2),
            column("gbps", "Gbit/s", 1),
        ],
        Work::Connect | Work::Reset => vec![
            column("conns_per_s", "connections/s", 0),
            column("cpu_us_per_conn", "CPU µs each", 0),
        ],
        Work::Exchange => vec![
            column("ops_per_s", "exchanges/s", 0),
            column("cpu_us_per_op", "CPU µs each", 1),
        ],
        Work::Cluster => {
            return vec![
                column("start_ms", "start to serving ms", 0),
                column("effect_ms", "change to effect ms", 0),
                column("effect_most_ms", "slowest ms", 0),
                column("resident_bytes", "bytes of memory", 0),
            ];
        }
        Work::Idle => {
            return vec![
                column("bytes_per_conn", "bytes each", 0),
                column("rss_bytes_per_conn", "of these RSS", 0),
                column("socket_bytes_per_conn", "sockets", 0),
                column("bpf_bytes_per_conn", "BPF maps", 0),
                column("bpf_bytes", "BPF maps in all", 0),
                column("fds_per_conn", "descriptors each", 1),
            ];
        }
    };
    if !matches!(load.work, Work::Down | Work::Up) {
        columns.push(column("p50_us", "p50 µs", 0));
        columns.push(column("p99_us", "p99 µs", 0));
        columns.push(column("p999_us", "p99.9 µs", 0));
    }
    if load.setting == Setting::Scraped {
        columns.insert(0, column(SCRAPED_SHARE, "of the unscraped rate %", 1));
        columns.insert(2, column(UNSCRAPED_RATE, "unscraped", 0));
        columns.push(column(UNSCRAPED_SLOWEST, "unscraped p99 µs", 0));
    }
    if counts_syscalls(load) {
        columns.push(column(SYSCALLS, "system calls each", 1));
    }
    if takes_kernel_time(load) {
        columns.push(column(NS_PER_PACKET, "ns per packet", 0));
    }
    columns.push(column("client_cpu_share", "client's CPU %", 0));
    columns.push(column("endpoint_cpu_share", "endpoint's CPU %", 0));
    columns
}

/// What has changed against an earlier run: the result that matters most of each row of both.
pub fn difference(rows: &Rows, baseline: &Value) -> String {
    let before = baseline["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let mut text = String::new();
    for load in rows.loads() {
        for row in rows.of(&load) {
            let same = before.iter().find(|old| {
                old["system"] == row.system.name
                    && old["datapath"] == row.system.datapath
                    && old["load"] == load.name
                    && old["params"] == load.params()
                    && old["valid"] == true
            });
            let name = format!("{:24} {:28}", row.system.key(), load.name);
            for column in columns(&load)
                .iter()
                .filter(|column| !column.head.ends_with('%'))
            {
                let old = same.and_then(|old| old[column.key].as_f64());
                let (Some(old), Some(new)) = (old.filter(|old| *old > 0.0), row.median(column.key))
                else {
                    continue;
                };
                let percent = 100.0 * (new / old - 1.0);
                let _ = writeln!(
                    text,
                    "{name} {:>16} {old:12.2} → {new:12.2} {percent:+7.1} %",
                    column.head
                );
            }
        }
    }
    match text.is_empty() {
        true => "the baseline has no row of these systems and loads\n".to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::tests::some;
    use crate::bench::system::System;

    #[test]
    fn table_shows_medians_spreads_and_invalid_rows() {
        let mut rows = some();
        let load = rows.loads()[0];
        rows.spoil(&System::imagined("nginx", "copy"), &load, "x".to_owned());
        let text = markdown(&rows);
        assert!(
            text.contains("| sni-router/sockmap | 0.50 (0.40–0.60) | – | – |"),
            "{text}"
        );
        assert!(
            text.contains("| ~~nginx/copy~~ (invalid) | 2.00 |"),
            "{text}"
        );
    }

    #[test]
    fn table_shows_what_is_more_than_no_router_takes() {
        let mut rows = some();
        let load = rows.loads()[0];
        let results = std::collections::BTreeMap::from([("cpu_s_per_gb".to_owned(), 0.2)]);
        rows.add(&System::imagined("direct", "kernel"), &load, &results);
        let text = markdown(&rows);
        assert!(text.contains("| CPU s/GB | more than direct |"), "{text}");
        assert!(
            text.contains("| envoy/copy | 1.00 (0.80–1.20) | 0.80 |"),
            "{text}"
        );
        assert!(text.contains("| direct/kernel | 0.20 | 0.00 |"), "{text}");
    }

    #[test]
    fn difference_is_of_rows_that_both_runs_have() {
        let rows = some();
        let mut old = serde_json::json!({ "rows": rows.json() });
        old["rows"][1]["cpu_s_per_gb"] = 1.0.into();
        old["rows"][2]["params"]["hosts"] = 11.into();
        let text = difference(&rows, &old);
        let line = text.lines().find(|line| line.contains("sockmap")).unwrap();
        assert!(line.ends_with("1.00 →         0.50   -50.0 %"), "{line}");
        assert!(!text.contains("envoy"));
        assert!(difference(&rows, &serde_json::json!({})).contains("no row"));
    }
}
