//! The ids in URLs, parsed at the door.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::problem::Problem;

use super::params::parse_client;
use super::reply::{Rejection, invalid};

/// The client that a URL names.
#[derive(Debug)]
pub(super) struct ClientIn(pub(super) ClientId);

/// The transfer that a URL names.
#[derive(Debug)]
pub(super) struct TransferIn(pub(super) TransferId);

/// The one variable part of a URL, decoded.
#[derive(Debug)]
pub(super) struct TextIn(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for ClientIn {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Rejection> {
        let TextIn(text) = TextIn::from_request_parts(parts, state).await?;
        Ok(Self(parse_client(&text)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for TransferIn {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Rejection> {
        let TextIn(text) = TextIn::from_request_parts(parts, state).await?;
        Ok(Self(parse_transfer(&text)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for TextIn {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Rejection> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => Ok(Self(text)),
            Err(_) => {
                let hint = "See what there is: curl localhost:8080";
                Err(invalid("The URL holds bytes that are not UTF-8.", hint).into())
            }
        }
    }
}

fn parse_transfer(text: &str) -> Result<TransferId, Problem> {
    TransferId::parse(text)
        .map_err(|error| invalid(error.to_string(), "list them: curl localhost:8080/transfers"))
}
