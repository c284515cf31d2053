//! The admin API: health, readiness, metrics and status, over HTTP.
//!
//! It answers questions and changes nothing, so it asks nobody who they are; on TCP it only
//! refuses what a web page could make a browser ask (DNS rebinding).

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tracing::{error, info};

use super::metrics::Metrics;
use super::readiness::Readiness;
use super::unix_socket::{self, SocketFile};

/// Makes the answer of `/api/v1/status`.
pub type Status = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// The API, served as long as this lives.
pub struct Admin {
    task: JoinHandle<()>,
    _file: Option<SocketFile>,
}

impl Admin {
    /// Serves at `addr`. Needs a tokio runtime.
    pub async fn serve(
        addr: &AdminAddr,
        readiness: Arc<Readiness>,
        metrics: Arc<Metrics>,
        status: Status,
    ) -> Result<Self, AdminError> {
        let answers = Answers {
            readiness,
            metrics,
            status,
        };
        let bind_error = |source| AdminError::Bind {
            addr: addr.clone(),
            source,
        };
        match addr {
            AdminAddr::Tcp(addr) => {
                let listener = TcpListener::bind(addr).await.map_err(bind_error)?;
                Ok(Self::on_tcp(listener, answers))
            }
            AdminAddr::Unix(path) => {
                let (listener, file) = unix_socket::bind(path).map_err(bind_error)?;
                Ok(Self::on_unix(listener, file, answers))
            }
        }
    }

    fn on_tcp(listener: TcpListener, answers: Answers) -> Self {
        if let Ok(addr) = listener.local_addr() {
            info!("the admin API is at http://{addr}");
        }
        let router = router(answers).layer(from_fn(refuse_names));
        let task = tokio::spawn(async move { served(axum::serve(listener, router).await) });
        Self { task, _file: None }
    }

    fn on_unix(listener: UnixListener, file: SocketFile, answers: Answers) -> Self {
        info!("the admin API is at {}", file.path().display());
        let router = router(answers);
        let task = tokio::spawn(async move { served(axum::serve(listener, router).await) });
        Self {
            task,
            _file: Some(file),
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where to serve the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddr {
    /// A local address and port.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl FromStr for AdminAddr {
    type Err = AdminError;

    fn from_str(text: &str) -> Result<Self, AdminError> {
        match text.strip_prefix("unix:") {
            Some("") => Err(AdminError::Addr(text.into())),
            Some(path) => Ok(Self::Unix(Path::new(path).into())),
            None => match text.parse() {
                Ok(addr) => Ok(Self::Tcp(addr)),
                Err(_) => Err(AdminError::Addr(text.into())),
            },
        }
    }
}

impl fmt::Display for AdminAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why there is no admin API.
#[derive(Debug, Error)]
pub enum AdminError {
    /// Not an address.
    #[error("{0:?} is neither IP:PORT nor unix:PATH (as in --admin 127.0.0.1:9901)")]
    Addr(String),
    /// The system does not give it.
    #[error(
        "cannot serve the admin API at {addr}: {source} ({})",
        remedy(addr, source)
    )]
    Bind {
        /// What was asked for.
        addr: AdminAddr,
        /// What the system says.
        source: io::Error,
    },
}

fn remedy(addr: &AdminAddr, error: &io::Error) -> &'static str {
    match (addr, error.kind()) {
        (_, io::ErrorKind::PermissionDenied) => "give --admin an address this user may listen on",
        (AdminAddr::Tcp(_), io::ErrorKind::AddrInUse) => "give --admin a port that is free",
        (AdminAddr::Tcp(_), io::ErrorKind::AddrNotAvailable) => {
            "give --admin an address of this machine, or 0.0.0.0"
        }
        (AdminAddr::Tcp(_), _) => "give --admin another address",
        (AdminAddr::Unix(_), io::ErrorKind::AddrInUse) => {
            "stop the other router, or give --admin another path"
        }
        (AdminAddr::Unix(_), io::ErrorKind::NotFound) => {
            "create the directory, or give --admin another path"
        }
        (AdminAddr::Unix(_), _) => "give --admin another path",
    }
}

/// Serving has no end but the end of the task; a failed accept is tried again.
fn served(end: io::Result<()>) {
    if let Err(error) = end {
        error!("the admin API stopped: {error}");
    }
}

/// What the answers are made of.
struct Answers {
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
    status: Status,
}

fn router(answers: Answers) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .fallback(async || (StatusCode::NOT_FOUND, INDEX))
        .with_state(Arc::new(answers))
}

async fn ready(State(answers): State<Arc<Answers>>) -> (StatusCode, String) {
    match answers.readiness.check() {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn metrics(State(answers): State<Arc<Answers>>) -> Response {
    match answers.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn status(State(answers): State<Arc<Answers>>) -> Json<serde_json::Value> {
    Json((answers.status)())
}

/// A web page may give its own name our address, and so make the browser of somebody who can
/// reach us read the answers to it. The browser then still sends that name.
async fn refuse_names(request: Request, next: Next) -> Result<Response, Infallible> {
    let host = request
        .headers()
        .get(header::HOST)
        .map(|host| host.as_bytes());
    let names = request
        .uri()
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    if host.into_iter().chain(names).all(is_address) {
        return Ok(next.run(request).await);
    }
    Ok((StatusCode::FORBIDDEN, NAME_REFUSED).into_response())
}

fn is_address(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else {
        return false;
    };
    let host = authority.host();
    let ip = host
        .strip_prefix('[')
        .and_then(|ip| ip.strip_suffix(']'))
        .unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || ip.parse::<IpAddr>().is_ok()
}

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const INDEX: &str = "there are: /healthz /readyz /metrics /api/v1/status\n";

const NAME_REFUSED: &str = "the admin API only answers requests to an IP address or localhost, \
    so that no web page can read it through a browser\n";

#[cfg(test)]
mod tests;
