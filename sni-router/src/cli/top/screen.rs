//! The screen of `top`.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph, Row, Sparkline, Table};

use super::rates::{Rates, Sample};
use crate::api::EndpointState;
use crate::cli::columns::time;

/// Draws what is so now, and what was.
pub fn draw(frame: &mut Frame<'_>, now: &Sample, history: &[Rates]) {
    let Some(rates) = history.last() else { return };
    let rows = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(6),
        Constraint::Min(5),
        Constraint::Length(8),
    ]);
    let [head, curves, busy, rest] = rows.areas(frame.area());
    frame.render_widget(heading(now, rates), head);

    let thirds = Layout::horizontal([Constraint::Ratio(1, 3); 3]).areas::<3>(curves);
    let curve = |frame: &mut Frame<'_>, area: Rect, title: String, of: fn(&Rates) -> f64| {
        // As many of the last as the area is wide.
        let width = usize::from(area.width.saturating_sub(2));
        let from = history.len().saturating_sub(width);
        let data: Vec<_> = history[from..].iter().map(|it| of(it) as u64).collect();
        let line = Sparkline::default().data(data).style(Color::Blue);
        frame.render_widget(line.block(Block::bordered().title(title)), area);
    };
    let [opened, down, rejected] = thirds;
    let title = format!(" {:.1} new connections/s ", rates.opened);
    curve(frame, opened, title, |it| it.opened * 10.0);
    let title = format!(
        " {} up, {} down ",
        bits(rates.bits_up),
        bits(rates.bits_down)
    );
    curve(frame, down, title, |it| it.bits_up + it.bits_down);
    let title = format!(" {:.1} rejected/s ", rates.rejected);
    curve(frame, rejected, title, |it| it.rejected * 10.0);

    let [hosts, endpoints] = Layout::horizontal([Constraint::Ratio(1, 2); 2]).areas(busy);
    frame.render_widget(busiest(rates), hosts);
    frame.render_widget(endpoint_table(rates), endpoints);
    let [carried, rejects] = Layout::horizontal([Constraint::Ratio(1, 2); 2]).areas(rest);
    let lines = rates.carried.iter();
    let lines = lines.map(|(name, count)| Line::from(format!("{name:<20} {count:>10}")));
    let title = format!(
        " connections by datapath; the best is {} ",
        now.status.datapath
    );
    list(frame, carried, title, lines.collect());
    let lines = rates.rejects.iter();
    let lines = lines.map(|(reason, rate)| Line::from(format!("{reason:<20} {rate:>10.1}/s")));
    list(frame, rejects, " rejects ".to_owned(), lines.collect());
}

fn heading(now: &Sample, rates: &Rates) -> Paragraph<'static> {
    let status = &now.status;
    let about = format!(
        "sni-router {}, process {}, for {}   generation {}   {} connections",
        status.version,
        status.pid,
        time(status.uptime_seconds),
        status.generation,
        rates.connections,
    );
    let declined = status.declined.iter();
    let mut lines = vec![Line::styled(about, Modifier::BOLD)];
    lines.extend(
        declined.map(|why| Line::styled(format!("no better datapath: {why}"), Color::Yellow)),
    );
    Paragraph::new(lines)
}

fn busiest(rates: &Rates) -> Table<'static> {
    let rows = rates.hosts.iter();
    let rows = rows.map(|(host, rate)| Row::new([host.clone(), format!("{rate:.1}")]));
    table(
        rows,
        &["busiest hosts", "new/s"],
        [Constraint::Fill(1), Constraint::Length(9)],
    )
}

fn endpoint_table(rates: &Rates) -> Table<'static> {
    let rows = rates.endpoints.iter().map(|it| {
        let (state, color) = match it.state {
            EndpointState::Good => ("good", Color::Green),
            EndpointState::Failing => ("failing", Color::Red),
            EndpointState::Draining => ("draining", Color::Yellow),
        };
        let cells = [
            it.address.clone(),
            state.to_owned(),
            it.active.to_string(),
            format!("{:.1}", it.chosen),
        ];
        Row::new(cells).style(if state == "good" {
            Style::new()
        } else {
            color.into()
        })
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Length(9),
    ];
    table(rows, &["endpoints", "state", "now", "new/s"], widths)
}

fn table<'a, const N: usize>(
    rows: impl Iterator<Item = Row<'a>>,
    heading: &[&'static str],
    widths: [Constraint; N],
) -> Table<'a> {
    let heading = Row::new(heading.to_vec()).style(Modifier::DIM);
    Table::new(rows, widths)
        .header(heading)
        .block(Block::bordered())
}

fn list(frame: &mut Frame<'_>, area: Rect, title: String, lines: Vec<Line<'_>>) {
    frame.render_widget(
        Paragraph::new(lines).block(Block::bordered().title(title)),
        area,
    );
}

fn bits(rate: f64) -> String {
    let mut value = rate;
    for unit in ["bit/s", "kbit/s", "Mbit/s"] {
        if value < 999.5 {
            return format!("{value:.0} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.2} Gbit/s")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    fn sample(at: Instant, factor: u64) -> Sample {
        Sample {
            at,
            status: serde_json::from_value(json!({
                "version": "1", "pid": 1, "uptime_seconds": 5.0, "generation": 3, "connections": 7,
                "opened": 100 * factor, "closed": {}, "rejects": {"no_sni": 10 * factor},
                "bytes_up": 125_000 * factor, "bytes_down": 250_000_000 * factor, "datapath": "tc",
                "declined": null, "self_tests": [], "programs": [], "carried": {"tc": 7}, "declines": {}, "listeners": [],
                "clusters": [], "kernel": null,
            }))
            .unwrap(),
            routes: serde_json::from_value(json!([
                {"listener": "a/b", "pattern": "quiet.example.com", "origin": "", "backend": "",
                 "active": 0, "opened": 5},
                {"listener": "a/b", "pattern": "busy.example.com", "origin": "", "backend": "",
                 "active": 7, "opened": 40 * factor},
            ]))
            .unwrap(),
            backends: serde_json::from_value(json!([{"name": "x", "method": "", "endpoints": [
                {"address": "10.0.0.1:1", "cluster": "", "state": "good", "active": 7,
                 "chosen": 40 * factor, "connected": 0, "failed": 0},
                {"address": "10.0.0.2:1", "cluster": "", "state": "failing", "active": 0,
                 "chosen": 0, "connected": 0, "failed": 0},
            ]}]))
            .unwrap(),
        }
    }

    #[test]
    fn screen_shows_rates_with_the_busiest_and_the_bad_first() {
        let start = Instant::now();
        let (before, now) = (sample(start, 1), sample(start + Duration::from_secs(2), 2));
        let rates = Rates::between(&before, &now);
        assert_eq!((rates.opened, rates.rejected), (50.0, 5.0));
        assert_eq!((rates.bits_up, rates.bits_down), (500_000.0, 1e9));
        let mut terminal = Terminal::new(TestBackend::new(120, 30)).unwrap();
        terminal.draw(|frame| draw(frame, &now, &[rates])).unwrap();
        let cells = terminal.backend().buffer().content.chunks(120);
        let lines: Vec<String> = cells
            .map(|line| line.iter().map(|cell| cell.symbol()).collect())
            .collect();
        let line_of = |text: &str| {
            let found = lines.iter().position(|line| line.contains(text));
            found.unwrap_or_else(|| panic!("no {text:?} in\n{}", lines.join("\n")))
        };
        for text in [
            "50.0 new connections/s",
            "500 kbit/s up, 1.00 Gbit/s down",
            "5.0 rejected/s",
            "no_sni",
        ] {
            line_of(text);
        }
        assert!(line_of("busy.example.com") < line_of("quiet.example.com"));
        assert!(line_of("10.0.0.2:1") < line_of("10.0.0.1:1"));
    }

    #[test]
    fn another_process_has_no_negative_rates() {
        let start = Instant::now();
        let rates = Rates::between(
            &sample(start, 5),
            &sample(start + Duration::from_secs(1), 1),
        );
        assert_eq!(
            (rates.opened, rates.rejected, rates.bits_up),
            (0.0, 0.0, 0.0)
        );
    }
}
