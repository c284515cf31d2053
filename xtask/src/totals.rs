//! What test programs say, added up.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};

use crate::command::line;

/// What test binaries have said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Totals {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Commands that failed without saying that a test failed: a crash, an error of compilation.
    broken: Vec<String>,
}

impl Totals {
    /// Those of what is run, told at the end.
    pub fn of(run: impl FnOnce(&mut Self) -> Result<()>) -> Result<ExitCode> {
        let mut totals = Self::default();
        run(&mut totals)?;
        Ok(totals.conclude())
    }

    /// Runs tests, shows what they print and adds it up.
    pub fn count(&mut self, command: &mut Command) -> Result<()> {
        println!("  $ {}", line(command));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", line(command)))?;
        let failed = self.failed;
        let stdout = child.stdout.take().context("no pipe")?;
        for bytes in BufReader::new(stdout).split(b'\n') {
            // A test may print anything, also what is not UTF-8.
            let bytes = bytes?;
            self.hear(&String::from_utf8_lossy(&bytes));
        }
        if !child.wait()?.success() && self.failed == failed {
            self.missed(&line(command));
        }
        Ok(())
    }

    /// Shows a line that a test has printed, and adds it up.
    pub fn hear(&mut self, line: &str) {
        println!("{line}");
        self.add(line);
    }

    /// Takes note of a command that failed without saying that a test failed.
    pub fn missed(&mut self, line: &str) {
        self.broken.push(line.to_owned());
    }

    /// Prints the line of totals; a success if something passed and nothing failed.
    fn conclude(&self) -> ExitCode {
        let Self {
            passed,
            failed,
            ignored,
            broken,
        } = self;
        for command in broken {
            println!("did not end as tests do: {command}");
        }
        println!("\n{passed} passed, {failed} failed, {ignored} skipped");
        match *failed == 0 && broken.is_empty() && *passed > 0 {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }

    /// Adds up `test result: ok. 12 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in counts.split("; ") {
            match part.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                Some((number, "ignored")) => self.ignored += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_add_up_result_lines_and_nothing_else() {
        let mut totals = Totals::default();
        for line in [
            "running 3 tests",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 9 filtered out; finished in 2s",
            "4 passed; 5 failed",
        ] {
            totals.add(line);
        }
        let expected = Totals {
            passed: 13,
            failed: 2,
            ignored: 1,
            broken: vec![],
        };
        assert_eq!(totals, expected);
    }
}
