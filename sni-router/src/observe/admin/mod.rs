//! The admin API: health, readiness, metrics, what is going on, and what can be done about it, over HTTP.
//!
//! Whoever may open the Unix socket may do everything. On TCP whoever is on this machine may ask, and others how
//! the router fares; anything else needs a token; what a web page could make a browser ask is refused.

mod answers;
mod calls;
mod dashboard;
mod guard;
mod refusals;
mod serving;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use axum::Extension;
use axum::extract::ConnectInfo;
use axum::middleware::{from_fn, from_fn_with_state};
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tracing::info;

pub use self::answers::{Answers, Refused};
use self::calls::Served;
pub use self::guard::Token;
use super::metrics::Metrics;
use super::readiness::Readiness;
use super::unix_socket::{self, SocketFile};

/// The API, served as long as this lives.
pub struct Admin {
    task: JoinHandle<()>,
    _file: Option<SocketFile>,
}

impl Admin {
    /// Serves at `addr`. On TCP, calls that change something need the token; without one, there are
    /// none. Needs a tokio runtime.
    pub async fn serve(
        addr: &AdminAddr,
        token: Option<&Token>,
        readiness: Arc<Readiness>,
        metrics: Arc<Metrics>,
        answers: Arc<dyn Answers>,
    ) -> Result<Self, AdminError> {
        let served = Served {
            readiness,
            metrics,
            answers,
        };
        let bind_error = |source| AdminError::Bind {
            addr: addr.clone(),
            source,
        };
        match addr {
            AdminAddr::Tcp(addr) => {
                let listener = TcpListener::bind(addr).await.map_err(bind_error)?;
                Ok(Self::on_tcp(listener, served, token.cloned()))
            }
            AdminAddr::Unix(path) => {
                let (listener, file) = unix_socket::bind(path).map_err(bind_error)?;
                Ok(Self::on_unix(listener, file, served))
            }
        }
    }

    fn on_tcp(listener: TcpListener, served: Served, token: Option<Token>) -> Self {
        if let Ok(addr) = listener.local_addr() {
            info!("the admin API is at http://{addr}");
        }
        let router = calls::router(served)
            .layer(from_fn_with_state(token, guard::ask_for_token))
            .layer(from_fn(guard::refuse_browsers));
        let told = move |peer: SocketAddr| router.clone().layer(Extension(ConnectInfo(peer)));
        let task = tokio::spawn(serving::serve(listener, told));
        Self { task, _file: None }
    }

    fn on_unix(listener: UnixListener, file: SocketFile, served: Served) -> Self {
        info!("the admin API is at {}", file.path().display());
        let router = calls::router(served);
        let task = tokio::spawn(serving::serve(listener, move |_| router.clone()));
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

impl AdminAddr {
    /// Whether it may take a capability to listen there.
    pub fn is_privileged(&self) -> bool {
        matches!(self, Self::Tcp(addr) if addr.port() < 1024)
    }
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

#[cfg(test)]
mod tests;
