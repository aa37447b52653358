//! `/api/v1/whoami`: who the server takes the caller for.

use std::collections::BTreeMap;

use axum::Extension;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use crate::access::Role;
use crate::http::request::caller::Caller;
use crate::http::request::params::NoParams;
use crate::http::request::rejection::Rejection;
use crate::http::response;

#[derive(Debug, Serialize)]
struct WhoamiJson {
    /// The name in the records: of the token or of the user, or else the address.
    name: String,
    role: Role,
    /// The labels of the clients that the caller may see; null for all clients.
    clients: Option<BTreeMap<String, String>>,
    /// How the caller is signed in: `token`, `proxy`, or `none` if the server does not ask.
    sign_in: &'static str,
    address: String,
}

/// Handles `GET /api/v1/whoami`.
pub(crate) async fn show(
    Extension(caller): Extension<Caller>,
    _: NoParams,
) -> Result<Response, Rejection> {
    let identity = caller.identity()?;
    let scope = &identity.scope;
    let whoami = WhoamiJson {
        name: caller.name(),
        role: identity.role,
        clients: (!scope.is_everything()).then(|| scope.labels()),
        sign_in: identity.sign_in.as_str(),
        address: caller.address(),
    };
    Ok(response::json(StatusCode::OK, &whoami))
}
