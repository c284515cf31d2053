//! Asking a running router, by its admin API.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Method, Request, Response, header};
use futures_util::StreamExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Builder;

use crate::api::Refusal;
use crate::observe::admin::AdminAddr;

/// Which router.
#[derive(clap::Args, Clone, Debug)]
pub struct Admin {
    /// The --admin address of the router
    #[arg(long, value_name = "ADDR", default_value = HOME)]
    admin: AdminAddr,

    /// The --admin-token-file of the router, for calls over TCP that change something
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Admin {
    /// Asks, and reads the answer.
    pub fn get<T: DeserializeOwned>(&self, path: &str, query: &impl Serialize) -> Result<T> {
        let query = serde_urlencoded::to_string(query)?;
        let body = self.call(Method::GET, &format!("{path}?{query}"), Body::empty())?;
        self.read(&body)
    }

    /// The answer as it is.
    pub fn get_text(&self, path: &str) -> Result<Bytes> {
        self.call(Method::GET, path, Body::empty())
    }

    /// Has everything ended at that path that the query fits, and reads the answer.
    pub fn delete<T: DeserializeOwned>(&self, path: &str, query: &impl Serialize) -> Result<T> {
        let query = serde_urlencoded::to_string(query)?;
        let body = self.call(Method::DELETE, &format!("{path}?{query}"), Body::empty())?;
        self.read(&body)
    }

    /// Has something done, and reads the answer.
    pub fn post<T: DeserializeOwned>(&self, path: &str, what: &impl Serialize) -> Result<T> {
        let body = self.send(Method::POST, path, what)?;
        self.read(&body)
    }

    /// Has something done of which there is nothing to say.
    pub fn send(&self, method: Method, path: &str, what: &impl Serialize) -> Result<Bytes> {
        self.call(method, path, serde_json::to_vec(what)?.into())
    }

    /// Calls `on_line` with each line of an answer that goes on, as it comes. Returns with an error.
    pub fn follow(
        &self,
        path: &str,
        query: &impl Serialize,
        mut on_line: impl FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        let query = serde_urlencoded::to_string(query)?;
        let request = self.request(Method::GET, &format!("{path}?{query}"), Body::empty())?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut body = self.answer(request).await?.into_data_stream();
            let mut rest = Vec::new();
            while let Some(piece) = body.next().await {
                rest.extend_from_slice(&piece?);
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    on_line(String::from_utf8_lossy(&line).trim_end())?;
                }
            }
            bail!("the router has ended")
        })
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T> {
        serde_json::from_slice(body).with_context(|| {
            format!(
                "{} answers something else (is it a router of this version?)",
                self.admin
            )
        })
    }

    fn call(&self, method: Method, path: &str, body: Body) -> Result<Bytes> {
        let request = self.request(method, path, body)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let body = self.answer(request).await?;
            Ok(to_bytes(body, MOST_BYTES).await?)
        })
    }

    fn request(&self, method: Method, path: &str, body: Body) -> Result<Request<Body>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path.trim_end_matches('?'))
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(file) = &self.token_file {
            let token = fs::read_to_string(file)
                .with_context(|| format!("cannot read --token-file {}", file.display()))?;
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim()));
        }
        Ok(request.body(body)?)
    }

    /// The body of an answer, unless that is a refusal.
    async fn answer(&self, request: Request<Body>) -> Result<Body> {
        let nobody = || {
            format!(
                "no router answers at {} (is it the --admin of `sni-router run`?)",
                self.admin
            )
        };
        let response = match &self.admin {
            AdminAddr::Tcp(addr) => {
                let stream = TcpStream::connect(addr).await.with_context(nobody)?;
                answered(stream, request).await
            }
            AdminAddr::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.with_context(nobody)?;
                answered(stream, request).await
            }
        }?;
        let status = response.status();
        let body = Body::new(response.into_body());
        if status.is_success() {
            return Ok(body);
        }
        let body = to_bytes(body, MOST_BYTES).await?;
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => bail!("{}", refusal.error),
            Err(_) => bail!(
                "{} answers {status}: {}",
                self.admin,
                String::from_utf8_lossy(&body).trim_end()
            ),
        }
    }
}

async fn answered(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Body>,
) -> Result<Response<Incoming>> {
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

/// Where a router serves its admin API if nobody says where; the directory is made if need be.
pub fn at_home() -> Result<AdminAddr> {
    let addr: AdminAddr = HOME.parse()?;
    if let AdminAddr::Unix(path) = &addr
        && let Some(directory) = path.parent()
    {
        // Serving says what is wrong, if it is not there.
        let _ = DirBuilder::new().mode(0o750).create(directory);
    }
    Ok(addr)
}

const HOME: &str = "unix:/run/sni-router/admin.sock";

/// Of tens of thousands of listeners.
const MOST_BYTES: usize = 64 << 20;
