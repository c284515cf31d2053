//! The dashboard: a page that asks the API, and nobody else.

use axum::Router;
use axum::http::header;
use axum::routing::get;

/// The page and what belongs to it.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let part = |kind: &'static str, text: &'static str| {
        let headers = [
            (header::CONTENT_TYPE, kind),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::CACHE_CONTROL, "no-cache"),
        ];
        get(async move || (headers, text))
    };
    Router::new()
        .route("/", part(HTML, include_str!("dashboard/index.html")))
        .route(
            "/dashboard.css",
            part(CSS, include_str!("dashboard/dashboard.css")),
        )
        .route(
            "/dashboard.js",
            part(JS, include_str!("dashboard/dashboard.js")),
        )
}

/// Nothing from elsewhere, nothing inline, and in no other page's frame.
const POLICY: &str = "default-src 'none'; connect-src 'self'; img-src data:; script-src 'self'; style-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
