//! Dependencies point one way: `cli → app → {source, proxy, datapath, observe} → core, common`.
//!
//! Between crates the compiler sees to it; inside sni-router this does, by looking for names.

use std::path::Path;

use anyhow::{Result, bail};

use super::sources;

/// Fails when a file names what its layer must not know.
pub fn check() -> Result<()> {
    let mut violations = Vec::new();
    for (path, text) in sources("sni-router/src")? {
        let module = path.strip_prefix("sni-router/src").unwrap_or(&path);
        let forbidden = forbidden(module);
        for (number, line) in text.lines().enumerate() {
            for name in names_in(line, &forbidden) {
                violations.push(format!("  {}:{}: {name}", path.display(), number + 1));
            }
        }
    }
    if !violations.is_empty() {
        bail!(
            "these modules must not know each other (ARCHITECTURE.md):\n{}",
            violations.join("\n")
        );
    }
    Ok(())
}

/// What a file of sni-router must not name.
fn forbidden(module: &Path) -> Vec<String> {
    let mut names = Vec::new();
    if !module.starts_with("datapath/bpf") {
        names.extend(["aya::", "aya_log::", "aya_obj::"].map(str::to_owned));
    }
    let top = module.iter().next().map(|name| name.to_string_lossy());
    let top = top.as_deref().unwrap_or_default().trim_end_matches(".rs");
    if matches!(top, "main" | "app" | "cli") {
        return names;
    }
    names.extend(["crate::app", "crate::cli"].map(str::to_owned));
    // `sys` is below the siblings: it knows none of them.
    if SIBLINGS.contains(&top) || top == "sys" {
        let others = SIBLINGS.iter().filter(|sibling| **sibling != top);
        names.extend(others.map(|sibling| format!("crate::{sibling}")));
    }
    names
}

/// Which of these names a line of code has, as whole words; comments do not count.
fn names_in<'a>(line: &str, names: &'a [String]) -> Vec<&'a str> {
    let code = line.split("//").next().unwrap_or_default();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let has = |name: &str| {
        code.match_indices(name).any(|(at, _)| {
            let before = code[..at].chars().next_back();
            let after = code[at + name.len()..].chars().next();
            let open_end = name.ends_with("::") || !after.is_some_and(is_word);
            open_end && !before.is_some_and(|c| is_word(c) || c == ':')
        })
    };
    names
        .iter()
        .map(String::as_str)
        .filter(|name| has(name))
        .collect()
}

const SIBLINGS: [&str; 4] = ["source", "proxy", "datapath", "observe"];

#[cfg(test)]
mod tests {
    use super::*;

    fn found(module: &str, line: &str) -> usize {
        names_in(line, &forbidden(Path::new(module))).len()
    }

    #[test]
    fn siblings_must_not_name_each_other_but_themselves_and_what_is_below() {
        assert_eq!(found("proxy/mod.rs", "use crate::datapath::Datapath;"), 1);
        assert_eq!(found("proxy/mod.rs", "use crate::proxy::hello;"), 0);
        assert_eq!(found("proxy/mod.rs", "use crate::sys::sockopt;"), 0);
        assert_eq!(found("sys/mod.rs", "use crate::proxy::hello;"), 1);
        assert_eq!(found("source/directory.rs", "crate::app::run()"), 1);
        assert_eq!(found("app.rs", "use crate::proxy; use crate::datapath;"), 0);
    }

    #[test]
    fn only_datapath_bpf_may_name_aya() {
        assert_eq!(found("app.rs", "use aya::Ebpf;"), 1);
        assert_eq!(
            found("datapath/sockmap.rs", "let x: aya::maps::MapData;"),
            1
        );
        assert_eq!(found("datapath/bpf/load.rs", "use aya::Ebpf;"), 0);
    }

    #[test]
    fn comments_and_longer_words_are_not_names() {
        assert_eq!(found("proxy/mod.rs", "// see crate::datapath"), 0);
        assert_eq!(found("proxy/mod.rs", "use crate::datapath_name;"), 0);
        assert_eq!(found("app.rs", "use malaya::x;"), 0);
    }
}
