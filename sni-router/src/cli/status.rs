//! `status`: what a running router is doing.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Request, Response, header};
use clap::{Args as ClapArgs, ValueEnum};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Builder;

use crate::observe::admin::AdminAddr;

/// Show what a running router is doing: listeners, connections by datapath, and why better datapaths
/// were declined.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// The --admin address that the router was given
    #[arg(long, value_name = "ADDR")]
    admin: AdminAddr,

    /// As JSON, with everything there is
    #[arg(long)]
    json: bool,

    /// Only ask this, and fail where the answer is no: for the probes of a supervisor
    #[arg(long, conflicts_with = "json", value_name = "WHAT")]
    probe: Option<Probe>,
}

/// What a supervisor wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Probe {
    /// Does it answer?
    Healthz,
    /// Does it accept connections?
    Readyz,
}

/// Asks and prints.
pub fn run(args: Args) -> Result<ExitCode> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    if let Some(probe) = args.probe {
        let path = match probe {
            Probe::Healthz => "/healthz",
            Probe::Readyz => "/readyz",
        };
        let answer = runtime.block_on(ask(&args.admin, path))?;
        print!("{}", String::from_utf8_lossy(&answer));
        return Ok(ExitCode::SUCCESS);
    }
    let status = runtime.block_on(ask(&args.admin, "/api/v1/status"))?;
    let status: Value = serde_json::from_slice(&status)
        .with_context(|| format!("{} is no router's admin API", args.admin))?;
    if args.json {
        println!("{status:#}");
    } else {
        print!("{}", text(&status));
    }
    Ok(ExitCode::SUCCESS)
}

/// The body of the answer.
async fn ask(admin: &AdminAddr, path: &str) -> Result<Bytes> {
    let nobody =
        || format!("no router answers at {admin} (is it the --admin of `sni-router run`?)");
    let response = match admin {
        AdminAddr::Tcp(addr) => {
            get(TcpStream::connect(addr).await.with_context(nobody)?, path).await
        }
        AdminAddr::Unix(socket) => {
            get(
                UnixStream::connect(socket).await.with_context(nobody)?,
                path,
            )
            .await
        }
    }?;
    let status = response.status();
    let body = to_bytes(Body::new(response.into_body()), MOST_BYTES).await?;
    if !status.is_success() {
        bail!(
            "{admin} answers {status}: {}",
            String::from_utf8_lossy(&body).trim_end()
        );
    }
    Ok(body)
}

async fn get(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    path: &str,
) -> Result<Response<Incoming>> {
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path)
        .header(header::HOST, "localhost")
        .body(Body::empty())?;
    Ok(sender.send_request(request).await?)
}

/// For people.
fn text(status: &Value) -> String {
    let mut lines = vec![
        format!("sni-router {}", word(&status["version"])),
        format!("generation   {}", word(&status["generation"])),
        format!("datapath     {}", word(&status["datapath"])),
    ];
    if let Some(why) = status["declined"].as_str() {
        lines.push(format!("             no better one: {why}"));
    }
    lines.push(format!("connections  {}", word(&status["connections"])));
    lines.extend(counts(&status["carried"]));
    lines.push("declined".to_owned());
    lines.extend(counts(&status["declines"]));
    let clusters = status["clusters"].as_array().into_iter().flatten();
    lines.extend(clusters.map(cluster));
    lines.push("listeners".to_owned());
    for listener in status["listeners"].as_array().into_iter().flatten() {
        let vips: Vec<_> = listener["vips"]
            .as_array()
            .into_iter()
            .flatten()
            .map(word)
            .collect();
        lines.push(format!(
            "  {:<24} {} port {}, {} routes",
            word(&listener["name"]),
            vips.join(" "),
            word(&listener["port"]),
            word(&listener["routes"]),
        ));
    }
    lines.join("\n") + "\n"
}

fn cluster(cluster: &Value) -> String {
    let name = word(&cluster["name"]);
    let state = match (cluster["stale_for_seconds"].as_u64(), &cluster["why"]) {
        (None, _) => "up to date".to_owned(),
        (Some(age), Value::String(why)) => format!("not heard from for {age} s: {why}"),
        (Some(_), _) => "as it was before the start".to_owned(),
    };
    let role = match cluster["leader"] == true {
        true => ", writes status",
        false => "",
    };
    let problems = cluster["definition_problems"].as_array();
    let problems: Vec<_> = problems.into_iter().flatten().map(word).collect();
    let problems = match problems.as_slice() {
        [] => String::new(),
        some => format!("\n    the definition of Listener {}", some.join("; ")),
    };
    format!("cluster {name:<18} {state}{role}{problems}")
}

/// A line for each number that is not zero.
fn counts(of: &Value) -> Vec<String> {
    let all = of.as_object().into_iter().flatten();
    let some = all.filter(|(_, count)| count.as_i64() != Some(0));
    some.map(|(name, count)| format!("  {name:<24} {count}"))
        .collect()
}

fn word(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Of tens of thousands of listeners.
const MOST_BYTES: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_shows_what_is_not_zero() {
        let status = json!({
            "version": "1.0", "generation": 3, "datapath": "tc", "declined": null, "connections": 5,
            "carried": {"tc": 4, "sockmap": 1, "userspace": 0},
            "declines": {"no_port": 1, "in_flight": 0},
            "clusters": [
                {"name": "east", "stale_for_seconds": null, "why": null, "leader": true,
                 "definition_problems": ["is too old"]},
                {"name": "west", "stale_for_seconds": 9, "why": "Secret: refused", "leader": false,
                 "definition_problems": []},
            ],
            "listeners": [{"name": "a/b", "vips": ["1.2.3.4"], "port": 443, "routes": 2}],
        });
        let text = text(&status);
        let lines: Vec<_> = text.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                "sni-router 1.0",
                "generation   3",
                "datapath     tc",
                "connections  5",
                "  sockmap                  1",
                "  tc                       4",
                "declined",
                "  no_port                  1",
                "cluster east               up to date, writes status",
                "    the definition of Listener is too old",
                "cluster west               not heard from for 9 s: Secret: refused",
                "listeners",
                "  a/b                      1.2.3.4 port 443, 2 routes",
            ]
        );
    }
}
