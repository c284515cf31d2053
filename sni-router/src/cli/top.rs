//! `top`: a running router at a glance, live.

mod rates;
mod screen;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use self::rates::{Rates, Sample};
use super::admin::Admin;
use super::print;

/// Show new connections, throughput, rejects, the busiest hosts and endpoints, and what carries
/// connections, every second. `q` ends it.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    admin: Admin,

    /// As JSON, a line a second, on any standard output
    #[arg(long)]
    json: bool,
}

/// Shows it until somebody has enough.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.json {
        return stream(&args.admin);
    }
    if !io::stdout().is_terminal() {
        bail!("top needs a terminal; `top --json` does not");
    }
    // Whoever is not there is told of before the screen changes.
    let mut last = Sample::take(&args.admin)?;
    let mut history = Vec::new();
    let mut terminal = ratatui::init();
    let shown = loop {
        match wanted(EVERY) {
            Ok(true) => break Ok(()),
            Ok(false) => {}
            Err(error) => break Err(error),
        }
        let now = match Sample::take(&args.admin) {
            Ok(now) => now,
            Err(error) => break Err(error),
        };
        let rates = Rates::between(&last, &now);
        history.push(rates.clone());
        if history.len() > HISTORY {
            history.remove(0);
        }
        if let Err(error) = terminal.draw(|frame| screen::draw(frame, &now, &history)) {
            break Err(error.into());
        }
        last = now;
    };
    ratatui::restore();
    shown.map(|()| ExitCode::SUCCESS)
}

fn stream(admin: &Admin) -> Result<ExitCode> {
    let mut last = Sample::take(admin)?;
    loop {
        sleep(EVERY);
        let now = Sample::take(admin)?;
        let rates = Rates::between(&last, &now);
        print(&format!("{}\n", serde_json::to_string(&rates)?))?;
        last = now;
    }
}

/// Waits so long; true if the end is wanted.
fn wanted(within: Duration) -> Result<bool> {
    let deadline = Instant::now() + within;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if !event::poll(left)? {
            return Ok(false);
        }
        let Event::Key(key) = event::read()? else {
            continue;
        };
        let is_interrupt =
            key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        let is_end = is_interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc);
        if is_end && key.kind == KeyEventKind::Press {
            return Ok(true);
        }
    }
}

const EVERY: Duration = Duration::from_secs(1);

/// Seconds that curves show.
const HISTORY: usize = 300;
