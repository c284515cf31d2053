//! Results as bars: one SVG for each load, the result that matters most, the spread as a line.

use std::fs;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::load::Load;
use super::rows::{OURS, Row, Rows};

/// Draws all loads into a directory.
pub fn draw_all(rows: &Rows, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    for load in rows.loads() {
        let bars: Vec<_> = rows
            .of(&load)
            .filter_map(|row| Bar::of(row, &load))
            .collect();
        if !bars.is_empty() {
            let path = dir.join(format!("{}.svg", load.name));
            fs::write(path, draw(&load, &bars)?)?;
        }
    }
    Ok(())
}

struct Bar {
    name: String,
    median: f64,
    spread: (f64, f64),
    is_ours: bool,
}

impl Bar {
    fn of(row: &Row, load: &Load) -> Option<Self> {
        let (key, _) = load.headline();
        Some(Self {
            name: row.system.key(),
            median: row.median(key).filter(|_| row.is_valid())?,
            spread: row.spread(key)?,
            is_ours: row.system.name == OURS,
        })
    }
}

fn draw(load: &Load, bars: &[Bar]) -> Result<String> {
    let (key, is_less_better) = load.headline();
    let better = if is_less_better { "less" } else { "more" };
    let title = format!("{}: {key} ({better} is better)", load.name);
    let most = bars.iter().map(|bar| bar.spread.1).fold(0.0, f64::max);
    let height = 90 + 30 * u32::try_from(bars.len())?;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (760, height)).into_drawing_area();
        let paint = || -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
            area.fill(&WHITE)?;
            let mut chart = ChartBuilder::on(&area)
                .caption(&title, ("sans-serif", 16))
                .margin(12)
                .x_label_area_size(26)
                .y_label_area_size(170)
                // From top to bottom, as in the table.
                .build_cartesian_2d(0.0..most.max(1e-9) * 1.15, (bars.len() as f64)..0.0)?;
            chart
                .configure_mesh()
                .disable_y_mesh()
                .disable_y_axis()
                .light_line_style(TRANSPARENT)
                .draw()?;
            for (at, bar) in bars.iter().enumerate() {
                let (top, middle, bottom) = (at as f64 + 0.15, at as f64 + 0.5, at as f64 + 0.85);
                let color = if bar.is_ours {
                    RGBColor(31, 119, 180)
                } else {
                    RGBColor(160, 160, 160)
                };
                let body = Rectangle::new([(0.0, top), (bar.median, bottom)], color.filled());
                let spread = vec![(bar.spread.0, middle), (bar.spread.1, middle)];
                chart.draw_series([body])?;
                chart.draw_series([PathElement::new(spread, BLACK.stroke_width(2))])?;
                let (x, y) = chart.backend_coord(&(0.0, middle));
                let style = ("sans-serif", 13).into_text_style(&area);
                let name = style.pos(text_anchor::Pos::new(
                    text_anchor::HPos::Right,
                    text_anchor::VPos::Center,
                ));
                area.draw_text(&bar.name, &name, (x - 8, y))?;
                let (x, y) = chart.backend_coord(&(bar.spread.1, middle));
                let style = ("sans-serif", 12).into_text_style(&area);
                let value = style.pos(text_anchor::Pos::new(
                    text_anchor::HPos::Left,
                    text_anchor::VPos::Center,
                ));
                area.draw_text(&number(bar.median), &value, (x + 6, y))?;
            }
            area.present()
        };
        paint().map_err(|error| anyhow!("{title}: {error}"))?;
    }
    Ok(svg)
}

/// Three digits or so.
fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

mod text_anchor {
    pub use plotters::style::text_anchor::{HPos, Pos, VPos};
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::tests::some;

    #[test]
    fn chart_names_every_system_and_its_median() {
        let rows = some();
        let load = rows.loads()[0];
        let bars: Vec<_> = rows
            .of(&load)
            .filter_map(|row| Bar::of(row, &load))
            .collect();
        let svg = draw(&load, &bars).unwrap();
        for text in [
            "forward/kernel",
            "sni-router/sockmap",
            "0.50",
            "less is better",
        ] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
    }
}
