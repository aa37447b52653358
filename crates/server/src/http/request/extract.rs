//! Parses the ids in URLs, and the parameter `wait`.

use std::time::Duration;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::problem::Problem;

use super::params::{Params, parse_client};
use super::rejection::{Rejection, invalid};

/// The client id in the path of a URL.
#[derive(Debug)]
pub(crate) struct ClientParam(pub(crate) ClientId);

/// The transfer id in the path of a URL.
#[derive(Debug)]
pub(crate) struct TransferParam(pub(crate) TransferId);

/// The variable part of a path, percent-decoded.
#[derive(Debug)]
pub(crate) struct TextParam(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for ClientParam {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Rejection> {
        let TextParam(text) = TextParam::from_request_parts(parts, state).await?;
        Ok(Self(parse_client(&text)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for TransferParam {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Rejection> {
        let TextParam(text) = TextParam::from_request_parts(parts, state).await?;
        Ok(Self(parse_transfer(&text)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for TextParam {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Rejection> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => Ok(Self(text)),
            Err(_) => {
                let hint = "See what there is: curl localhost:8080";
                Err(invalid("The URL is not UTF-8.", hint).into())
            }
        }
    }
}

fn parse_transfer(text: &str) -> Result<TransferId, Problem> {
    TransferId::parse(text)
        .map_err(|error| invalid(error.to_string(), "list them: curl localhost:8080/transfers"))
}

/// The value of `wait` without a number. Proxies close a connection without data after 60 s.
const BARE_WAIT: Duration = Duration::from_secs(50);

/// The maximum of `wait`. To wait longer, a caller repeats the request.
pub(crate) const MAX_WAIT: Duration = Duration::from_hours(24);

/// Parses how long the request waits for the end of a transfer.
pub(crate) fn wait(params: &Params) -> Result<Option<Duration>, Problem> {
    params.span("wait", BARE_WAIT, MAX_WAIT)
}
