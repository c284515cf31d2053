//! Who may call what of the admin API over TCP.

use std::convert::Infallible;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use axum::Json;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use thiserror::Error;

use crate::api::Refusal;

/// The file with the token for calls that change something. It is read for each such call, so that
/// it can be replaced.
#[derive(Clone, Debug)]
pub struct Token(PathBuf);

impl Token {
    /// The token in this file, which is read once to see that it can be.
    pub fn open(path: PathBuf) -> Result<Self, TokenError> {
        let token = Self(path);
        token.read()?;
        Ok(token)
    }

    fn read(&self) -> Result<String, TokenError> {
        let unreadable = |source| TokenError::Unreadable {
            path: self.0.clone(),
            source,
        };
        let meta = fs::metadata(&self.0).map_err(unreadable)?;
        if meta.permissions().mode() & OTHERS != 0 {
            return Err(TokenError::Open(self.0.clone()));
        }
        let text = fs::read_to_string(&self.0).map_err(unreadable)?;
        let token = text.trim();
        if token.len() < SHORTEST {
            return Err(TokenError::Short(self.0.clone()));
        }
        Ok(token.to_owned())
    }
}

/// Why there is no token.
#[derive(Debug, Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("--admin-token-file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Others can read it, too.
    #[error("--admin-token-file {}: others may read it; chmod o= it", .0.display())]
    Open(PathBuf),
    /// It can be guessed.
    #[error(
        "--admin-token-file {}: it has less than 16 characters; take the output of `openssl rand \
         -hex 32`",
        .0.display()
    )]
    Short(PathBuf),
}

/// A web page may give its own name our address, and so make the browser of somebody who can
/// reach us read the answers to it. The browser then still sends that name. And without reading
/// anything, a page can send requests, of which the browser says where they come from.
pub(super) async fn refuse_browsers(request: Request, next: Next) -> Result<Response, Infallible> {
    let headers = request.headers();
    let host = headers.get(header::HOST).map(|host| host.as_bytes());
    let names = request
        .uri()
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    if !host.into_iter().chain(names).all(is_address) {
        return Ok(refusal(StatusCode::FORBIDDEN, NAME_REFUSED));
    }
    if is_from_elsewhere(headers) {
        return Ok(refusal(StatusCode::FORBIDDEN, ORIGIN_REFUSED));
    }
    Ok(next.run(request).await)
}

/// A call that changes something must bring the token, and so must one from another machine that asks for
/// more than how the router fares: who is connected to whom is nobody else's business.
pub(super) async fn ask_for_token(
    State(token): State<Option<Token>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Result<Response, Infallible> {
    let only_asks = matches!(*request.method(), Method::GET | Method::HEAD);
    let is_here = peer.ip().to_canonical().is_loopback();
    if only_asks && (is_here || FOR_ALL.contains(&request.uri().path())) {
        return Ok(next.run(request).await);
    }
    let Some(token) = token else {
        return Ok(refusal(StatusCode::FORBIDDEN, NO_TOKEN));
    };
    let expected = match token.read() {
        Ok(expected) => expected,
        Err(error) => return Ok(refusal(StatusCode::FORBIDDEN, &error.to_string())),
    };
    let given = request.headers().get(header::AUTHORIZATION);
    let given = given.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if !given.is_some_and(|given| is_same(given, expected.as_bytes())) {
        let mut response = refusal(StatusCode::UNAUTHORIZED, TOKEN_WANTED);
        let scheme = header::HeaderValue::from_static("Bearer");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, scheme);
        return Ok(response);
    }
    Ok(next.run(request).await)
}

/// Takes as long whatever the difference, but for that of the lengths.
fn is_same(given: &[u8], expected: &[u8]) -> bool {
    let differ = given
        .iter()
        .zip(expected)
        .fold(0, |all, (a, b)| all | (a ^ b));
    given.len() == expected.len() && std::hint::black_box(differ) == 0
}

/// Whether a page of another origin has made the browser send it (Fetch Metadata, and RFC 6454,
/// section 7).
fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return true;
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        return false;
    };
    let host = headers.get(header::HOST).map(|host| host.as_bytes());
    origin.as_bytes().strip_prefix(b"http://") != host
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

fn refusal(status: StatusCode, error: &str) -> Response {
    let error = error.to_owned();
    (status, Json(Refusal { error })).into_response()
}

const NAME_REFUSED: &str = "the admin API only answers requests to an IP address or localhost, \
    so that no web page can read it through a browser";

const ORIGIN_REFUSED: &str = "a web page of another origin has sent this request";

const NO_TOKEN: &str = "over TCP nothing can be changed, nor seen from another machine but how the router \
    fares: start it with --admin-token-file, or use the Unix socket";

const TOKEN_WANTED: &str = "this call changes something, or comes from another machine: send the token of --admin-token-file as \
    `Authorization: Bearer TOKEN`";

/// What anybody may ask who reaches the address: what probes and scrapers do.
const FOR_ALL: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/api/v1/status"];

/// Mode bits of those who are neither owner nor group.
const OTHERS: u32 = 0o007;

/// Characters of a token, at least.
const SHORTEST: usize = 16;
