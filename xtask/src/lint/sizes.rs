//! Files that have grown beyond what one reads in one go.

use anyhow::Result;

use super::sources;

/// Lists files with more than [`LIMIT`] lines, their tests at the end not counted. A list, not an
/// error: now and then a long file is the clearest.
pub fn warn() -> Result<()> {
    for dir in [
        "bench",
        "sni-router",
        "sni-router-common",
        "sni-router-core",
        "sni-router-ebpf",
        "tests",
        "xtask",
    ] {
        for (path, text) in sources(dir)? {
            let lines = lines_before_tests(&text);
            if lines > LIMIT {
                println!(
                    "  {} has {lines} lines; think of splitting it",
                    path.display()
                );
            }
        }
    }
    Ok(())
}

fn lines_before_tests(text: &str) -> usize {
    text.lines()
        .take_while(|line| *line != "#[cfg(test)]")
        .count()
}

const LIMIT: usize = 400;
