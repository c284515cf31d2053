//! `listeners`, `routes`, `backends`, `problems`: what a running router serves.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::admin::Admin;
use super::columns::Columns;
use super::print;
use crate::api::{Backend, EndpointState, Listener, Problem, Route};

/// How a list is asked for.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    admin: Admin,

    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Prints the Listeners.
pub fn listeners(args: &Args) -> Result<ExitCode> {
    args.show("/api/v1/listeners", |listeners: &[Listener]| {
        let mut columns = Columns::new(&[
            "listener", "vips", "port", "routes", "active", "opened", "state",
        ]);
        for it in listeners {
            columns.row(vec![
                it.name.clone(),
                it.vips.join(" "),
                it.port.to_string(),
                it.routes.to_string(),
                it.active.to_string(),
                it.opened.to_string(),
                state(it),
            ]);
        }
        columns.text()
    })
}

fn state(listener: &Listener) -> String {
    match (&*listener.unbound, listener.draining) {
        ([], false) => "serving".to_owned(),
        ([], true) => "draining".to_owned(),
        (unbound, false) => format!("cannot listen on {}", unbound.join(" ")),
        (unbound, true) => format!("draining, cannot listen on {}", unbound.join(" ")),
    }
}

/// Prints the host patterns.
pub fn routes(args: &Args) -> Result<ExitCode> {
    args.show("/api/v1/routes", |routes: &[Route]| {
        let mut columns =
            Columns::new(&["listener", "host", "backend", "active", "opened", "from"]);
        for it in routes {
            columns.row(vec![
                it.listener.clone(),
                it.pattern.clone(),
                it.backend.clone(),
                it.active.to_string(),
                it.opened.to_string(),
                it.origin.clone(),
            ]);
        }
        columns.text()
    })
}

/// Prints the Services that routes lead to, an endpoint a line.
pub fn backends(args: &Args) -> Result<ExitCode> {
    args.show("/api/v1/backends", |backends: &[Backend]| {
        let mut columns = Columns::new(&[
            "backend", "method", "endpoint", "cluster", "state", "active", "chosen", "failed",
        ]);
        for backend in backends {
            let whole = [backend.name.clone(), backend.method.clone()];
            if backend.endpoints.is_empty() {
                columns.row(
                    whole
                        .iter()
                        .cloned()
                        .chain(["none is ready".to_owned()])
                        .collect(),
                );
            }
            for endpoint in &backend.endpoints {
                let state = match endpoint.state {
                    EndpointState::Good => "good",
                    EndpointState::Failing => "failing",
                    EndpointState::Draining => "draining",
                };
                let cells = [
                    endpoint.address.clone(),
                    endpoint.cluster.clone(),
                    state.to_owned(),
                    endpoint.active.to_string(),
                    endpoint.chosen.to_string(),
                    endpoint.failed.to_string(),
                ];
                columns.row(whole.iter().cloned().chain(cells).collect());
            }
        }
        columns.text()
    })
}

/// Prints the problems; fails where there is one that is an error.
pub fn problems(args: &Args) -> Result<ExitCode> {
    let problems: Vec<Problem> = args.ask("/api/v1/problems")?;
    args.print(&problems, |problems| {
        let mut text = String::new();
        for problem in problems {
            let at = problem
                .at
                .as_ref()
                .map(|at| format!("{at}: "))
                .unwrap_or_default();
            let path = match problem.path.as_str() {
                "" => String::new(),
                path => format!(" {path}"),
            };
            text += &format!(
                "{at}{}: {}{path}: {}",
                problem.severity, problem.object, problem.what
            );
            if !problem.hint.is_empty() {
                text += &format!(" ({})", problem.hint);
            }
            text.push('\n');
        }
        text
    })?;
    let is_bad = problems.iter().any(|problem| problem.severity == "error");
    Ok(if is_bad {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

impl Args {
    fn show<T: DeserializeOwned + Serialize>(
        &self,
        path: &str,
        text: impl FnOnce(&[T]) -> String,
    ) -> Result<ExitCode> {
        self.print(&self.ask::<T>(path)?, text)?;
        Ok(ExitCode::SUCCESS)
    }

    fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>> {
        self.admin.get(path, &())
    }

    fn print<T: Serialize>(&self, all: &[T], text: impl FnOnce(&[T]) -> String) -> Result<()> {
        match self.json {
            true => print(&format!("{}\n", serde_json::to_string_pretty(all)?)),
            false => print(&text(all)),
        }
    }
}
