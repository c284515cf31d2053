//! Tables for people.

use std::fmt::Write as _;

/// Rows of cells under a heading, each column as wide as its widest cell.
pub struct Columns {
    rows: Vec<Vec<String>>,
}

impl Columns {
    /// No rows yet.
    pub fn new(heading: &[&str]) -> Self {
        let heading = heading.iter().map(|cell| cell.to_uppercase());
        Self {
            rows: vec![heading.collect()],
        }
    }

    /// Adds a row; an empty cell is shown as `-`.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The lines.
    pub fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let widest = cells.map(|cell| cell.chars().count()).max();
            widest.unwrap_or(0).max(1)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let cell = if cell.is_empty() { "-" } else { cell };
                // Writing to a string cannot fail.
                let _ = write!(line, "{cell:<width$}  ");
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// `1h 2m`, `3.4s`: two parts at most.
pub fn time(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1}s");
    }
    let seconds = seconds as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}m {}s", seconds % 60),
        (0, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// `12.3 MB`: 10⁶ bytes.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.95 {
            return match unit {
                "B" => format!("{count} B"),
                _ => format!("{value:.1} {unit}"),
            };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut columns = Columns::new(&["name", "port"]);
        columns.row(vec!["default/web".into(), "443".into()]);
        columns.row(vec!["x".into(), String::new()]);
        assert_eq!(
            columns.text(),
            "NAME         PORT\ndefault/web  443\nx            -\n"
        );
    }

    #[test]
    fn numbers_are_short() {
        let times = [0.04, 59.9, 61.0, 3700.0, 90_000.0].map(time);
        assert_eq!(times, ["0.0s", "59.9s", "1m 1s", "1h 1m", "1d 1h"]);
        let sizes = [0, 999, 1000, 999_999, 12_345_678, 7_000_000_000_000].map(bytes);
        assert_eq!(
            sizes,
            ["0 B", "999 B", "1.0 kB", "1.0 MB", "12.3 MB", "7.0 TB"]
        );
    }
}
