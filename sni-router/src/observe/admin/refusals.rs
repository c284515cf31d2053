//! How calls are refused, for their description.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema as _};

use crate::api::Refusal;

/// A question that cannot be read, or makes no sense.
pub(super) enum Unreadable {}

impl IntoResponses for Unreadable {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        refusals(&[StatusCode::BAD_REQUEST])
    }
}

/// A body that cannot be read, or makes no sense.
pub(super) enum UnreadableOrder {}

impl IntoResponses for UnreadableOrder {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        refusals(&[
            StatusCode::BAD_REQUEST,
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            StatusCode::UNPROCESSABLE_ENTITY,
        ])
    }
}

/// Something that is not there.
pub(super) enum Unknown {}

impl IntoResponses for Unknown {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        refusals(&[StatusCode::NOT_FOUND])
    }
}

fn refusals(codes: &[StatusCode]) -> BTreeMap<String, RefOr<Response>> {
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(Refusal::name())))
        .build();
    let refusal = |code: &StatusCode| {
        let response = ResponseBuilder::new()
            .description(code.canonical_reason().unwrap_or_default())
            .content("application/json", content.clone())
            .build();
        (code.as_u16().to_string(), response.into())
    };
    codes.iter().map(refusal).collect()
}
