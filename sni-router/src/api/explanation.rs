//! What a server name gets, and why.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A client, as far as it decides.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct Question {
    /// The server name it sends; without it, it sends none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Its address. Without it, no endpoint is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The address it connects to [default: every Listener].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip: Option<String>,
    /// The port it connects to [default: 443 with `vip`, else every Listener].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// What a client gets at one Listener.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The Listener.
    pub listener: String,
    /// Its addresses.
    pub vips: Vec<String>,
    /// Its port.
    pub port: u16,
    /// Why the client is not served at all, if so.
    pub refused: Option<String>,
    /// The patterns that could take the name, in the order in which they are looked for.
    pub tried: Vec<Tried>,
    /// The host pattern that takes it; `None`: the client is rejected.
    pub route: Option<String>,
    /// The object that says so.
    pub origin: Option<String>,
    /// The Services it goes to, with their endpoints.
    pub backend: Option<super::Backend>,
    /// The endpoint that the client's next connection gets, if no other client comes first.
    pub endpoint: Option<String>,
    /// Why that one.
    pub why: String,
}

/// A pattern that was looked for.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Tried {
    /// The pattern.
    pub pattern: String,
    /// The object that has a route with it, if there is one.
    pub origin: Option<String>,
}
