//! `sni-router check`: what is wrong in a directory of manifests.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::Serialize;
use sni_router_core::manifest::{Build, Compiler, ListenerName, Options, Resolved};
use sni_router_core::model::Cluster;
use sni_router_core::problem::{ObjectRef, Problem, Severity};

use super::certificates::Certificates;
use super::print;
use crate::source::read::read_dir;

/// Validate manifests: prints what is wrong, object by object.
///
/// Exits with 0 where there is no error, 1 where there is one, 2 where the manifests cannot be
/// read. Warnings and notes are no errors.
#[derive(clap::Args, Debug)]
#[command(mut_arg("directory", |arg| arg.required(true)))]
pub struct Args {
    #[command(flatten)]
    manifests: Manifests,

    /// How problems are printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Which manifests are read, and how; as `run` takes it.
#[derive(clap::Args, Debug)]
pub struct Manifests {
    /// Directory of manifests (*.yaml, *.yml, *.json; subdirectories too), or one file
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,

    #[command(flatten)]
    reading: Reading,
}

/// How manifests are read; as `run` takes it.
#[derive(clap::Args, Debug)]
pub struct Reading {
    /// Only take Ingresses and Listeners of this class (repeatable)
    #[arg(long = "ingress-class", value_name = "NAME")]
    ingress_classes: Vec<String>,

    /// The Listener of Ingresses that name none and ask for passthrough by annotation
    #[arg(long, value_name = "NAMESPACE/NAME")]
    default_listener: Option<ListenerName>,

    /// The cluster that `sni-router.io/cluster-policy: prefer-local` prefers
    #[arg(long, value_name = "NAME")]
    local_cluster: Option<Cluster>,

    /// What a Listener's certificates must be: `verify` loads them, `declared` only asks that one
    /// is named, `ignore` asks nothing
    #[arg(long, value_enum, default_value_t = Certificates::Verify)]
    certificates: Certificates,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Text,
    Json,
}

impl Manifests {
    /// Whether no directory is named.
    pub fn is_none(&self) -> bool {
        self.directory.is_none()
    }

    /// Reads and builds them, without asking DNS.
    pub fn build(self) -> Result<Build> {
        let directory = self.directory.context("name the directory of manifests")?;
        self.reading.build(&directory)
    }
}

impl Reading {
    /// Reads and builds the manifests in a directory, without asking DNS.
    pub fn build(self, directory: &Path) -> Result<Build> {
        let snapshot = read_dir(directory)
            .with_context(|| format!("cannot read the manifests in {}", directory.display()))?;
        let options = Options {
            ingress_classes: self.ingress_classes,
            default_listener: self.default_listener,
            local_cluster: self.local_cluster,
            certificates: self.certificates.into(),
            ..Options::default()
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let mut build = Compiler::new(options).build(&snapshot, &Resolved::new(), now);
        if snapshot.files.is_empty() && snapshot.unreadable.is_empty() {
            let directory = ObjectRef::file(&directory.display().to_string());
            let what = "there is no *.yaml, *.yml or *.json here";
            build.problems.push(Problem::warning(&directory, "", what));
        }
        Ok(build)
    }
}

/// Prints every problem.
pub fn run(args: Args) -> Result<ExitCode> {
    let build = args.manifests.build()?;
    let text = match args.output {
        Output::Text => as_text(&build),
        Output::Json => as_json(&build)?,
    };
    print(&text)?;
    Ok(match build.count(Severity::Error) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// A problem as a line, with its place in front as compilers print it.
pub fn problem_line(problem: &Problem) -> String {
    match &problem.at {
        Some(at) => format!("{at}: {problem}"),
        None => problem.to_string(),
    }
}

fn as_text(build: &Build) -> String {
    let mut lines: Vec<_> = build.problems.iter().map(problem_line).collect();
    let routes = build
        .model
        .listeners
        .iter()
        .map(|listener| listener.routes.len())
        .sum();
    lines.push(format!(
        "{} with {}; {}, {}, {}",
        count(build.model.listeners.len(), "listener"),
        count(routes, "route"),
        count(build.count(Severity::Error), "error"),
        count(build.count(Severity::Warning), "warning"),
        count(build.count(Severity::Note), "note"),
    ));
    lines.join("\n") + "\n"
}

/// `1 error`, `2 errors`.
pub fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

#[derive(Serialize)]
struct Summary<'a> {
    listeners: usize,
    routes: usize,
    errors: usize,
    warnings: usize,
    notes: usize,
    problems: &'a [Problem],
}

fn as_json(build: &Build) -> Result<String> {
    let listeners = &build.model.listeners;
    let summary = Summary {
        listeners: listeners.len(),
        routes: listeners.iter().map(|listener| listener.routes.len()).sum(),
        errors: build.count(Severity::Error),
        warnings: build.count(Severity::Warning),
        notes: build.count(Severity::Note),
        problems: &build.problems,
    };
    Ok(serde_json::to_string_pretty(&summary)? + "\n")
}

#[cfg(test)]
mod tests {
    use sni_router_core::manifest::{Snapshot, SourceFile};

    use super::*;

    fn build(text: &str) -> Build {
        let file = SourceFile {
            path: "a.yaml".into(),
            text: text.into(),
            ..SourceFile::default()
        };
        Compiler::new(Options::default()).build(&Snapshot::from(vec![file]), &Resolved::new(), 0)
    }

    #[test]
    fn text_has_a_line_a_problem_and_a_summary() {
        let text = as_text(&build("kind: X\n---\n[\n"));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(
            lines[1].starts_with("a.yaml:4: error: ") || lines[1].starts_with("a.yaml:3: error: ")
        );
        assert_eq!(
            lines[2],
            "0 listeners with 0 routes; 1 error, 0 warnings, 1 note"
        );
    }

    #[test]
    fn directory_without_manifests_is_a_warning() {
        let directory = tempfile::tempdir().unwrap();
        let reading = Reading {
            ingress_classes: Vec::new(),
            default_listener: None,
            local_cluster: None,
            certificates: Certificates::Verify,
        };
        let text = as_text(&reading.build(directory.path()).unwrap());
        assert!(
            text.contains("there is no *.yaml, *.yml or *.json here")
                && text.ends_with("0 errors, 1 warning, 0 notes\n"),
            "{text}"
        );
    }

    #[test]
    fn json_has_the_same_numbers_and_problems() {
        let json = as_json(&build("- a\n")).unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["errors"], 1);
        assert_eq!(value["problems"][0]["severity"], "error");
        assert_eq!(value["problems"][0]["at"]["line"], 1);
    }
}
