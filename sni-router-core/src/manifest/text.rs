//! Texts to documents: YAML and JSON, many documents a text.
//!
//! A YAML text is cut at its `---` lines before it is parsed (kubectl does the same), so that a
//! document which does not parse takes no other document with it. The cut is safe: YAML forbids
//! such a line inside of any value (YAML 1.2, 9.1.2, c-forbidden).

use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;

use super::tree::Tree;

/// One document of a text.
#[derive(Debug)]
pub(super) struct Document {
    /// What it says.
    pub(super) value: Value,
    /// The byte at which its text starts, for looking up lines later.
    pub(super) start: usize,
    /// The line at which its text starts, counted from 1.
    pub(super) line: u32,
}

/// Why a document cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    /// The line, counted from 1.
    pub(super) line: u32,
    /// The parser's words.
    pub(super) what: String,
    /// What may help.
    pub(super) hint: &'static str,
}

/// Reads every document of a text. Empty ones are left out.
pub(super) fn documents(path: &str, text: &str) -> Vec<Result<Document, Unreadable>> {
    let text = without_bom(text);
    if path.ends_with(".json") {
        return json_documents(text);
    }
    chunks(text)
        .filter(|chunk| !chunk.text.is_empty())
        .filter_map(|chunk| match parse_yaml(chunk.text) {
            Ok(Value::Null) => None,
            Ok(value) => Some(Ok(Document {
                value,
                start: chunk.start,
                line: chunk.line,
            })),
            Err(error) => Some(Err(Unreadable {
                line: chunk.line + error.line - 1,
                ..error
            })),
        })
        .collect()
}

/// The text of the document that starts at byte `start`.
pub(super) fn document_text<'a>(path: &str, text: &'a str, start: usize) -> &'a str {
    let rest = without_bom(text).get(start..).unwrap_or_default();
    if path.ends_with(".json") {
        return rest;
    }
    chunks(rest).next().map_or("", |chunk| chunk.text)
}

fn without_bom(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

fn parse_yaml(text: &str) -> Result<Value, Unreadable> {
    match serde_saphyr::from_str_with_options::<Option<Tree>>(text, yaml_options()) {
        Ok(tree) => Ok(tree.map_or(Value::Null, |Tree(value)| value)),
        Err(error) => {
            let line = error.location().map_or(1, |at| at.line().max(1));
            let hint = if text.contains("{{") {
                "render the template first"
            } else {
                ""
            };
            Err(Unreadable {
                line: u32::try_from(line).unwrap_or(1),
                what: words(&error),
                hint,
            })
        }
    }
}

/// The limits keep a few hundred bytes of aliases from becoming gigabytes; a snapshot of a large
/// cluster in one `kind: List` stays far below them. Words like `yes` and `on` are booleans, as
/// they are for kubectl.
fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 20_000_000,
            max_nodes: 10_000_000,
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_aliases: 10_000,
            max_anchors: 10_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        leading_zero_numbers_as_strings: true,
        // A snippet would print the lines around a fault, and those may be a private key.
        with_snippet: false,
    }
}

/// The message without the position, which a [`Unreadable`] carries as a number, and without
/// advice that is meant for programmers.
fn words(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let text = text.lines().next().unwrap_or_default();
    let text = text.find(" at line ").map_or(text, |end| &text[..end]);
    if let Some(rest) = text.strip_prefix("duplicate mapping key: ") {
        let key = rest.split(", set ").next().unwrap_or(rest);
        return format!("the key {key} is there twice");
    }
    if text.starts_with("budget breached: Depth") || text.starts_with("recursion limit") {
        return format!("nested more than {MAX_DEPTH} deep");
    }
    if text.starts_with("budget breached: ") || text.starts_with("alias replay limit") {
        return "too large, or made too large by aliases".into();
    }
    lower_first(text.trim_end_matches(['.', ':']))
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => "cannot be read".into(),
    }
}

fn json_documents(text: &str) -> Vec<Result<Document, Unreadable>> {
    let mut found = Vec::new();
    let mut line = Lines::new(text);
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Tree>();
    loop {
        let end = stream.byte_offset();
        let start = end + leading_space(&text[end..]);
        match stream.next() {
            None => return found,
            Some(Ok(Tree(value))) => {
                found.push(Ok(Document {
                    value,
                    start,
                    line: line.at(start),
                }));
            }
            Some(Err(error)) => {
                let position = format!(" at line {} column {}", error.line(), error.column());
                let what = error.to_string().replace(&position, "");
                let line = u32::try_from(error.line().max(1)).unwrap_or(1);
                found.push(Err(Unreadable {
                    line,
                    what,
                    hint: "",
                }));
                return found;
            }
        }
    }
}

fn leading_space(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

/// Counts lines up to ever larger offsets in one pass over the text.
struct Lines<'a> {
    text: &'a str,
    offset: usize,
    line: u32,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            offset: 0,
            line: 1,
        }
    }

    fn at(&mut self, offset: usize) -> u32 {
        let passed = self
            .text
            .as_bytes()
            .get(self.offset..offset)
            .unwrap_or_default();
        self.line += passed.iter().filter(|&&byte| byte == b'\n').count() as u32;
        self.offset = offset;
        self.line
    }
}

struct Chunk<'a> {
    text: &'a str,
    start: usize,
    line: u32,
}

/// Cuts a YAML text into texts of one document each, without the comments in front of them.
fn chunks(text: &str) -> impl Iterator<Item = Chunk<'_>> {
    let mut rest = text;
    let mut lines = Lines::new(text);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (document, after) = rest.split_at(chunk_end(rest));
        let start = text.len() - rest.len() + prologue(document);
        rest = after;
        let end = text.len() - rest.len();
        Some(Chunk {
            text: &text[start..end],
            start,
            line: lines.at(start),
        })
    })
}

/// How much of a document's text is comments, empty lines and its own `---`, so that it can be
/// said on which line the document begins. Directives are kept with the `---` that ends them.
fn prologue(document: &str) -> usize {
    let mut length = 0;
    for line in document.split_inclusive('\n') {
        let bare = line
            .strip_prefix("---")
            .filter(|_| is_marker(line, "---"))
            .unwrap_or(line);
        if !bare.trim().is_empty() && !bare.trim_start().starts_with('#') {
            break;
        }
        length += line.len();
    }
    length
}

/// Where the first document of `text` ends.
fn chunk_end(text: &str) -> usize {
    let mut end = 0;
    // Before a document's own `---` only comments, directives and empty lines are possible, and
    // directives belong to the document that follows.
    let mut in_prologue = true;
    for line in text.split_inclusive('\n') {
        if is_marker(line, "---") && !in_prologue {
            return end;
        }
        end += line.len();
        if is_marker(line, "...") && !in_prologue {
            return end;
        }
        let bare = line.trim();
        if !bare.is_empty() && !line.starts_with(['#', '%']) && !is_marker(line, "...") {
            in_prologue = false;
        }
    }
    end
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Objects nest about ten deep, the schema of a CustomResourceDefinition up to about fifty. Every
/// level costs up to 20 KiB of stack in an unoptimised build, where a thread has 2 MiB.
const MAX_DEPTH: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_and_values(path: &str, text: &str) -> Vec<Result<(u32, Value), Unreadable>> {
        documents(path, text)
            .into_iter()
            .map(|d| d.map(|d| (d.line, d.value)))
            .collect()
    }

    #[test]
    fn yaml_text_is_cut_at_its_markers() {
        let text = "# head\n---\na: 1\n---\n---\n# only a comment\n--- # two\nb: 2\n...\nc: 3\n";
        let found: Vec<_> = documents("x.yaml", text)
            .into_iter()
            .map(|d| d.unwrap().value.to_string())
            .collect();
        assert_eq!(found, [r#"{"a":1}"#, r#"{"b":2}"#, r#"{"c":3}"#]);
    }

    #[test]
    fn document_that_does_not_parse_leaves_the_others() {
        let text = "a: 1\n---\nb: [1\nc: 2\n---\nd: 4\n";
        let found = lines_and_values("x.yaml", text);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[0].as_ref().unwrap().1["a"], 1);
        let error = found[1].as_ref().unwrap_err();
        assert!((3..=5).contains(&error.line), "{error:?}");
        assert_eq!(
            found[2].as_ref().unwrap(),
            &(6, serde_json::json!({"d": 4}))
        );
    }

    #[test]
    fn dashes_of_pem_do_not_cut() {
        let text = "a: |\n  -----BEGIN X-----\n  ---\n  -----END X-----\n";
        let found = documents("x.yaml", text);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].as_ref().unwrap().value["a"]
                .as_str()
                .unwrap()
                .contains("---\n")
        );
    }

    #[test]
    fn json_text_may_hold_many_documents() {
        let found = lines_and_values("x.json", "{\"a\":1}\n\n{\"b\":2}\n{");
        assert_eq!(found[0].as_ref().unwrap().0, 1);
        assert_eq!(
            found[1].as_ref().unwrap(),
            &(3, serde_json::json!({"b": 2}))
        );
        let error = found[2].as_ref().unwrap_err();
        assert_eq!(error.line, 4);
        assert!(!error.what.contains("line"), "{error:?}");
    }

    #[test]
    fn alias_bomb_is_an_error() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..20 {
            let below = level - 1;
            text += &format!(
                "a{level}: &a{level} [{}]\n",
                vec![format!("*a{below}"); 10].join(",")
            );
        }
        assert!(documents("x.yaml", &text)[0].is_err());
    }

    #[test]
    fn deep_nesting_is_an_error() {
        for text in [
            "[".repeat(100_000),
            "{a: ".repeat(5_000),
            "- ".repeat(5_000),
        ] {
            assert!(documents("x.yaml", &text)[0].is_err());
            assert!(documents("x.json", &"[".repeat(100_000))[0].is_err());
        }
    }

    #[test]
    fn words_of_an_error_hold_no_text_of_the_file() {
        let text = "data:\n  tls.key: |\n    SECRET\n bad: [\n  SECRET: }\n";
        for found in documents("x.yaml", text) {
            let error = found.unwrap_err();
            assert!(!error.what.contains("SECRET"), "{error:?}");
        }
    }
}
