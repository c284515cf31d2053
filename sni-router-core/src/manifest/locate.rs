//! From field paths to lines, looked up only where there is a problem to tell.

use std::collections::HashMap;

use granit_parser::{Event, Parser};

use super::SourceFile;
use super::path::{Path, parent};
use super::text::document_text;
use crate::model::Cluster;
use crate::problem::{Place, Problem};

/// Where an object is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    /// The file's cluster.
    pub(super) cluster: Cluster,
    /// The file's path.
    pub(super) file: String,
    /// The byte at which its document starts.
    pub(super) start: usize,
    /// The line at which its document starts.
    pub(super) line: u32,
    /// The path of the object inside of its document: empty, or as `items[3]`.
    pub(super) item: String,
}

impl Origin {
    /// Where its document starts.
    pub(super) fn place(&self) -> Place {
        place(&self.file, self.line)
    }

    /// The path of one of the object's fields inside of its document.
    pub(super) fn field(&self, path: &str) -> String {
        match (self.item.as_str(), path) {
            (item, "") => item.into(),
            ("", path) => path.into(),
            (item, path) => format!("{item}.{path}"),
        }
    }
}

pub(super) fn place(file: &str, line: u32) -> Place {
    Place {
        file: file.into(),
        line,
    }
}

/// Looks places up in the texts of a snapshot, scanning every document at most once.
#[derive(Debug, Default)]
pub(super) struct Locator<'a> {
    texts: HashMap<(&'a str, &'a str), &'a str>,
    scanned: HashMap<(Cluster, String, usize), Lines>,
}

impl<'a> Locator<'a> {
    pub(super) fn new(files: impl IntoIterator<Item = &'a SourceFile>) -> Self {
        let texts = files
            .into_iter()
            .map(|file| ((file.cluster.as_str(), file.path.as_str()), &*file.text));
        Self {
            texts: texts.collect(),
            scanned: HashMap::new(),
        }
    }

    /// Gives a problem of the object at `origin` its place, unless it has one.
    pub(super) fn attach(&mut self, problem: &mut Problem, origin: &Origin) {
        if problem.at.is_some() {
            return;
        }
        let document = (origin.cluster.clone(), origin.file.clone(), origin.start);
        let texts = &self.texts;
        let lines = self.scanned.entry(document).or_insert_with(|| {
            Lines::of(
                &origin.file,
                texts
                    .get(&(origin.cluster.as_str(), origin.file.as_str()))
                    .unwrap_or(&""),
                origin,
            )
        });
        problem.at = Some(lines.place(origin, &problem.path));
    }
}

/// The line of every field of a document.
#[derive(Debug)]
struct Lines(HashMap<String, u32>);

impl Lines {
    /// Scans the document that `origin` names.
    fn of(path: &str, text: &str, origin: &Origin) -> Self {
        let mut lines = HashMap::new();
        // The document did parse; where it does not parse here, the lines up to there are right.
        let _ = scan(
            document_text(path, text, origin.start),
            origin.line,
            &mut lines,
        );
        Self(lines)
    }

    /// The place of a field of the object at `origin`, or of the nearest field above it.
    fn place(&self, origin: &Origin, field: &str) -> Place {
        let mut path = origin.field(field);
        loop {
            if let Some(&line) = self.0.get(&path) {
                return place(&origin.file, line);
            }
            match parent(&path) {
                Some(above) => path = above.to_owned(),
                None => return place(&origin.file, origin.line),
            }
        }
    }
}

enum Level {
    /// In an object; whether the next scalar is a key.
    Object { at_key: bool },
    /// In a list; the index of the next item.
    List { index: usize },
}

fn scan(
    text: &str,
    first_line: u32,
    lines: &mut HashMap<String, u32>,
) -> Result<(), granit_parser::ScanError> {
    let mut path = Path::default();
    let mut levels: Vec<Level> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event?;
        let line = first_line + u32::try_from(span.start.line().saturating_sub(1)).unwrap_or(0);
        match event {
            Event::DocumentEnd => return Ok(()),
            Event::Scalar(key, ..)
                if matches!(levels.last(), Some(Level::Object { at_key: true })) =>
            {
                path.push_field(&key);
                lines.entry(path.to_string()).or_insert(line);
                levels.pop();
                levels.push(Level::Object { at_key: false });
            }
            Event::Scalar(..) | Event::Alias(..) => {
                begin_value(&mut path, &levels, line, lines);
                end_value(&mut path, &mut levels);
            }
            Event::MappingStart(..) => {
                begin_value(&mut path, &levels, line, lines);
                levels.push(Level::Object { at_key: true });
            }
            Event::SequenceStart(..) => {
                begin_value(&mut path, &levels, line, lines);
                levels.push(Level::List { index: 0 });
            }
            Event::MappingEnd | Event::SequenceEnd => {
                levels.pop();
                end_value(&mut path, &mut levels);
            }
            _ => {}
        }
    }
    Ok(())
}

/// A list's items have no key that would have made their path.
fn begin_value(path: &mut Path, levels: &[Level], line: u32, lines: &mut HashMap<String, u32>) {
    if let Some(Level::List { index }) = levels.last() {
        path.push_index(*index);
        lines.entry(path.to_string()).or_insert(line);
    }
}

fn end_value(path: &mut Path, levels: &mut [Level]) {
    match levels.last_mut() {
        Some(Level::Object { at_key }) => {
            *at_key = true;
            path.pop();
        }
        Some(Level::List { index }) => {
            *index += 1;
            path.pop();
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::{Document, documents};
    use super::*;

    #[test]
    fn line_of_a_field_is_the_line_of_its_key() {
        let text = "# head\n---\nspec:\n  vip: x\n  certificates:\n  - secret:\n      name: a\n";
        let text = format!("{text}  - {{preconfigured: b, \"a/b\": [1,\n 2]}}\n");
        assert_lines(
            &text,
            0,
            &[
                ("spec.vip", 4),
                ("spec.certificates[0].secret.name", 7),
                ("spec.certificates[1].preconfigured", 8),
                ("spec.certificates[1][\"a/b\"][1]", 9),
                ("spec.certificates[1].missing", 8),
                ("spec.port", 3),
                ("nothing", 3),
            ],
        );
    }

    #[test]
    fn line_in_a_later_document_counts_from_the_file() {
        assert_lines(
            "a: 1\n---\n\nb:\n  c: 2\n",
            1,
            &[("b", 4), ("b.c", 5), ("", 4)],
        );
    }

    fn assert_lines(text: &str, nth: usize, expected: &[(&str, u32)]) {
        let document = documents("f.yaml", text).remove(nth).unwrap();
        let Document { start, line, .. } = document;
        let origin = Origin {
            cluster: Cluster::default(),
            file: "f.yaml".into(),
            start,
            line,
            item: String::new(),
        };
        let lines = Lines::of("f.yaml", text, &origin);
        for (path, line) in expected {
            assert_eq!(lines.place(&origin, path).line, *line, "{path}");
        }
    }
}
