//! `GET /api/v1/transfers/ID/receipt`: what the agent signed, as a JWS in compact form.

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use filepull_core::problem::{Code, Problem};
use filepull_core::transfer::Transfer;
use filepull_trust::receipt::Receipt;

use super::files;
use crate::http::App;
use crate::http::request::caller::Caller;
use crate::http::request::extract::TransferParam;
use crate::http::request::params::NoParams;
use crate::http::request::rejection::Rejection;
use crate::http::response::problem::records_failed;

/// The media type of a JWS in compact form (RFC 7515, 9.2.1).
const JOSE: HeaderValue = HeaderValue::from_static("application/jose");

/// Handles `GET /api/v1/transfers/ID/receipt`.
pub(crate) async fn of_transfer(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    TransferParam(id): TransferParam,
    _: NoParams,
) -> Result<Response, Rejection> {
    let view = app.transfers.find(id, caller.scope()).await?;
    files::check_done(&view)?;
    let stored = app.records.receipt(id).await.map_err(|error| records_failed(&error))?;
    match stored.filter(|receipt| is_of_download(receipt, &view.transfer)) {
        Some(receipt) => Ok(([(CONTENT_TYPE, JOSE)], receipt).into_response()),
        None => {
            let client = &view.transfer.client;
            let detail = format!("{client} sent no receipt with transfer {id}.");
            Err(Problem::new(Code::ReceiptMissing, detail).into())
        }
    }
}

/// Returns whether the receipt states the digest of the download. The receipt of an earlier upload of
/// the transfer does not, if the source changed since.
fn is_of_download(receipt: &str, transfer: &Transfer) -> bool {
    let stated = Receipt::verify(receipt).ok().and_then(|receipt| receipt.claims.blake3());
    let digest = transfer.download().map(|download| download.digests.blake3);
    stated.is_some() && stated == digest
}
