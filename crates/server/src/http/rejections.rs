//! Records requests that are rejected because of their caller, before the caller gets the response.

use axum::extract::State;
use axum::response::Response;
use filepull_core::audit::AuditAction;
use filepull_core::problem::Code;

use super::request::caller::Caller;
use super::request::rejection::Rejection;
use super::request_log::RequestLogEntry;
use crate::records::AuditEntry;
use crate::rejection_audit::RejectionAudit;

/// Records the rejection of a caller. Runs before the rejection is rendered.
pub(crate) async fn record(State(audit): State<RejectionAudit>, response: Response) -> Response {
    if let Some(entry) = entry(&response) {
        // In a box: the future of each waiting request would hold it.
        Box::pin(audit.record(entry)).await;
    }
    response
}

/// Returns the entry for the audit, if the caller was the reason. The URL is not part of it: it may hold
/// any text.
fn entry(response: &Response) -> Option<AuditEntry> {
    let extensions = response.extensions();
    let code = extensions.get::<Rejection>()?.problem.code;
    let is_recorded = matches!(
        code,
        Code::SignedOut | Code::NotAllowed | Code::CrossSiteRequest | Code::TooManyRequests
    );
    let caller = extensions.get::<Caller>().filter(|_| is_recorded)?;
    let request = extensions.get::<RequestLogEntry>()?;
    let entry = caller.actor().did(AuditAction::RequestRejected, request.route());
    Some(entry.with("code", code.as_str()).with("method", request.method().as_str()))
}
