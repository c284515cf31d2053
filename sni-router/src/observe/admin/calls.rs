//! The calls of the admin API, and their description.

use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::StreamExt as _;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::metrics::Metrics;
use super::super::readiness::Readiness;
use super::answers::{Answers, Refused};
use super::dashboard;
use super::refusals::{Unknown, Unreadable, UnreadableOrder};
use crate::api::{
    Backend, Closed, Config, Connection, ConnectionQuery, Drain, Drained, Explanation, Kernel,
    Listener, LogLevel, Page, Problem, Question, Refusal, Route, Status, Step, TraceQuery,
};

/// What the answers are made of.
pub(super) struct Served {
    pub(super) readiness: Arc<Readiness>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) answers: Arc<dyn Answers>,
}

type Parts = State<Arc<Served>>;

/// All calls.
pub(super) fn router(served: Served) -> Router {
    let (router, description) = described().with_state(Arc::new(served)).split_for_parts();
    let description: Arc<str> = description.to_json().unwrap_or_default().into();
    let json = [(header::CONTENT_TYPE, "application/json")];
    router
        .merge(dashboard::router())
        .route(
            "/api/v1/openapi.json",
            get(async move || (json, description.to_string())),
        )
        .fallback(async || {
            refusal(
                StatusCode::NOT_FOUND,
                "no such call; /api/v1/openapi.json has them all",
            )
        })
        .method_not_allowed_fallback(async || {
            refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                "no such call; /api/v1/openapi.json has them all",
            )
        })
}

fn described() -> OpenApiRouter<Arc<Served>> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
        .routes(routes!(status))
        .routes(routes!(listeners))
        .routes(routes!(list_routes))
        .routes(routes!(backends))
        .routes(routes!(problems))
        .routes(routes!(config))
        .routes(routes!(kernel))
        .routes(routes!(explain))
        .routes(routes!(connections, close_all))
        .routes(routes!(connection, close))
        .routes(routes!(trace))
        .routes(routes!(drain))
        .routes(routes!(undrain))
        .routes(routes!(reload))
        .routes(routes!(log_level))
}

/// What the description begins with.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "sni-router",
        description = "What the router does, and what can be done about it. Over TCP, calls other than GET need \
        the token of --admin-token-file as `Authorization: Bearer TOKEN`."
    ),
    components(schemas(Refusal))
)]
struct Description;

/// Whether the process is alive
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = String)))]
async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether new connections should be sent here
#[utoipa::path(get, path = "/readyz", responses(
    (status = 200, body = String, description = "Listeners serve"),
    (status = 503, body = String, description = "Why not"),
))]
async fn readyz(State(served): Parts) -> (StatusCode, String) {
    match served.readiness.check() {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

/// All metrics, as OpenMetrics text
#[utoipa::path(get, path = "/metrics", responses(
    (status = 200, body = String, content_type = "application/openmetrics-text"),
))]
async fn metrics(State(served): Parts) -> Response {
    match served.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// Everything at a glance
#[utoipa::path(get, path = "/api/v1/status", responses((status = 200, body = Status)))]
async fn status(State(served): Parts) -> Json<Status> {
    Json(served.answers.status())
}

/// The Listeners that are served
#[utoipa::path(get, path = "/api/v1/listeners", responses((status = 200, body = Vec<Listener>)))]
async fn listeners(State(served): Parts) -> Json<Vec<Listener>> {
    Json(served.answers.listeners())
}

/// The host patterns of all Listeners
#[utoipa::path(get, path = "/api/v1/routes", operation_id = "routes", responses((status = 200, body = Vec<Route>)))]
async fn list_routes(State(served): Parts) -> Json<Vec<Route>> {
    Json(served.answers.routes())
}

/// The Services that routes lead to, with their endpoints
#[utoipa::path(get, path = "/api/v1/backends", responses((status = 200, body = Vec<Backend>)))]
async fn backends(State(served): Parts) -> Json<Vec<Backend>> {
    Json(served.answers.backends())
}

/// What is wrong in the configuration in force
#[utoipa::path(get, path = "/api/v1/problems", responses((status = 200, body = Vec<Problem>)))]
async fn problems(State(served): Parts) -> Json<Vec<Problem>> {
    Json(served.answers.problems())
}

/// The configuration in force
#[utoipa::path(get, path = "/api/v1/config", responses((status = 200, body = Config)))]
async fn config(State(served): Parts) -> Json<Config> {
    Json(served.answers.config())
}

/// What the router has in the kernel
#[utoipa::path(get, path = "/api/v1/kernel", responses((status = 200, body = Kernel)))]
async fn kernel(State(served): Parts) -> Json<Kernel> {
    Json(served.answers.kernel())
}

/// What a client's next connection gets at each Listener, and why
#[utoipa::path(get, path = "/api/v1/explain", params(Question), responses(
    (status = 200, body = Vec<Explanation>),
    Unreadable,
))]
async fn explain(
    State(served): Parts,
    Query(question): Query<Question>,
) -> Result<Json<Vec<Explanation>>, Refused> {
    aside(move || served.answers.explain(&question))
        .await
        .map(Json)
}

/// Connections that are not over
#[utoipa::path(get, path = "/api/v1/connections", params(ConnectionQuery), responses(
    (status = 200, body = Page),
    Unreadable,
))]
async fn connections(
    State(served): Parts,
    Query(query): Query<ConnectionQuery>,
) -> Result<Json<Page>, Refused> {
    aside(move || served.answers.connections(&query))
        .await
        .map(Json)
}

/// End connections: all that fit, of which something must be said
#[utoipa::path(delete, path = "/api/v1/connections", params(ConnectionQuery), responses(
    (status = 200, body = Closed),
    Unreadable,
))]
async fn close_all(
    State(served): Parts,
    Query(query): Query<ConnectionQuery>,
) -> Result<Json<Closed>, Refused> {
    let closed = aside(move || served.answers.close_all(&query)).await?;
    Ok(Json(Closed { closed }))
}

/// A connection
#[utoipa::path(get, path = "/api/v1/connections/{id}", params(("id" = u64, Path)), responses(
    (status = 200, body = Connection),
    Unreadable,
    Unknown,
))]
async fn connection(
    State(served): Parts,
    Path(id): Path<u64>,
) -> Result<Json<Connection>, Refused> {
    served.answers.connection(id).map(Json)
}

/// End a connection: both sides get a RST
#[utoipa::path(delete, path = "/api/v1/connections/{id}", params(("id" = u64, Path)), responses(
    (status = 200, body = Closed),
    Unreadable,
    Unknown,
))]
async fn close(State(served): Parts, Path(id): Path<u64>) -> Result<Json<Closed>, Refused> {
    served.answers.close(id)?;
    Ok(Json(Closed { closed: 1 }))
}

/// What connections go through from now on, live: a step a line, as JSON, until the caller has enough
#[utoipa::path(get, path = "/api/v1/trace", params(TraceQuery), responses(
    (status = 200, body = Step, content_type = "application/x-ndjson"),
    Unreadable,
    (status = 429, body = Refusal, description = "Too many others follow"),
))]
async fn trace(State(served): Parts, Query(query): Query<TraceQuery>) -> Result<Response, Refused> {
    let steps = served.answers.trace(&query)?;
    let lines = steps.map(|step| serde_json::to_string(&step).map(|line| line + "\n"));
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, axum::body::Body::from_stream(lines)).into_response())
}

/// Send no new connections to a Listener or an endpoint; those there are go on. Forgotten at the next start
#[utoipa::path(post, path = "/api/v1/drain", request_body = Drain, responses(
    (status = 200, body = Drained),
    UnreadableOrder,
    Unknown,
))]
async fn drain(State(served): Parts, Body(what): Body<Drain>) -> Result<Json<Drained>, Refused> {
    served.answers.drain(&what, true).map(Json)
}

/// Send new connections there again
#[utoipa::path(post, path = "/api/v1/undrain", request_body = Drain, responses(
    (status = 200, body = Drained),
    UnreadableOrder,
    Unknown,
))]
async fn undrain(State(served): Parts, Body(what): Body<Drain>) -> Result<Json<Drained>, Refused> {
    served.answers.drain(&what, false).map(Json)
}

/// Read the configuration again
#[utoipa::path(post, path = "/api/v1/reload", responses((status = 204, description = "It has been read, or cannot be: the configuration says which")))]
async fn reload(State(served): Parts) -> StatusCode {
    // Ended without a word, it is over as well.
    let _ = served.answers.reload().await;
    StatusCode::NO_CONTENT
}

/// Change what is logged, until the next start
#[utoipa::path(put, path = "/api/v1/log-level", request_body = LogLevel, responses(
    (status = 204, description = "It is so"),
    UnreadableOrder,
))]
async fn log_level(
    State(served): Parts,
    Body(level): Body<LogLevel>,
) -> Result<StatusCode, Refused> {
    served.answers.log(&level.filter)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Looks through connections, of which there may be a million, away from the thread that follows the
/// configuration.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    // Those who ask wait for each other, and not connections for all of them.
    static ASKED: Semaphore = Semaphore::const_new(AT_A_TIME);
    // Fails only once it is closed, which it never is.
    let _turn = ASKED.acquire().await;
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Those of axum, with refusals that look like all others.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(Malformed))]
struct Body<T>(T);

#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Malformed))]
struct Query<T>(T);

#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Malformed))]
struct Path<T>(T);

/// A request that cannot be read.
struct Malformed(StatusCode, String);

impl From<JsonRejection> for Malformed {
    fn from(rejection: JsonRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Malformed {
    fn from(rejection: QueryRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for Malformed {
    fn from(rejection: PathRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

impl IntoResponse for Malformed {
    fn into_response(self) -> Response {
        refusal(self.0, &self.1)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Nonsense(_) => StatusCode::BAD_REQUEST,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
        };
        refusal(status, &self.to_string())
    }
}

fn refusal(status: StatusCode, error: &str) -> Response {
    let error = error.to_owned();
    (status, Json(Refusal { error })).into_response()
}

pub(super) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Questions that look through everything.
const AT_A_TIME: usize = 2;
