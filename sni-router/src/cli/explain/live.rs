//! Asking a running router what a server name gets.

use std::process::ExitCode;

use anyhow::Result;

use super::{Args, line};
use crate::api::{EndpointState, Explanation, Question};
use crate::cli::print;

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let question = Question {
        host: args.host.clone(),
        client: args.client.map(|addr| addr.to_string()),
        vip: args.vip.map(|addr| addr.to_string()),
        port: args.port,
    };
    let explained: Vec<Explanation> = args.admin.get("/api/v1/explain", &question)?;
    if args.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&explained)?))?;
    } else {
        let none = "No listener is served there.\n".to_owned();
        let texts = explained.iter().map(|it| text(it, args.host.as_deref()));
        print(&texts.reduce(|all, one| all + "\n" + &one).unwrap_or(none))?;
    }
    let found = explained
        .iter()
        .any(|it| it.route.is_some() && it.refused.is_none());
    Ok(if found {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn text(explained: &Explanation, host: Option<&str>) -> String {
    let mut text = String::new();
    line(&mut text, "server name", host.unwrap_or("(no server name)"));
    let vips = explained.vips.join(", ");
    let listener = format!("{} on {vips} port {}", explained.listener, explained.port);
    line(&mut text, "listener", &listener);
    if let Some(refused) = &explained.refused {
        line(&mut text, "refused", refused);
    }
    let route = match (&explained.route, &explained.origin) {
        (Some(route), Some(origin)) => format!("{route}, from {origin}"),
        _ => "none".to_owned(),
    };
    line(&mut text, "route", &route);
    if let Some(backend) = &explained.backend {
        line(
            &mut text,
            "backend",
            &format!("Service {}, {}", backend.name, backend.method),
        );
        for endpoint in &backend.endpoints {
            let state = match endpoint.state {
                EndpointState::Good => "",
                EndpointState::Failing => ", failing",
                EndpointState::Draining => ", draining",
            };
            let shown = format!(
                "{}, {} connections{state}",
                endpoint.address, endpoint.active
            );
            line(&mut text, "", &shown);
        }
    }
    let endpoint = explained.endpoint.as_deref().unwrap_or("none");
    line(&mut text, "next", &format!("{endpoint}: {}", explained.why));
    text += "looked for, the first there is wins:\n";
    for tried in &explained.tried {
        let origin = tried.origin.as_deref().unwrap_or("no route");
        let origin = match explained.route.as_ref() == Some(&tried.pattern) {
            true => format!("taken, from {origin}"),
            false => origin.to_owned(),
        };
        text += &format!("  {:<30} {origin}\n", tried.pattern);
    }
    text
}
