//! Limits how often a caller may pull, for every URL that starts a pull.

use crate::http::App;
use crate::http::request::caller::Caller;
use crate::http::request::pull::PullRequest;
use crate::http::request::rejection::Rejection;
use crate::http::response::problem::records_failed;

/// Counts a pull of a caller who is known by name.
///
/// # Errors
/// The caller may not see the client, or the caller or the client has too many pulls.
pub(crate) async fn check(
    app: &App,
    caller: &Caller,
    request: &PullRequest,
) -> Result<(), Rejection> {
    let Some(limits) = app.gate.trigger_limits() else { return Ok(()) };
    limits.check_caller(&caller.name())?;
    // An unknown client gets no entry, so that the limits stay bounded. The pull rejects it, and records that.
    let clients = app.clients.within(caller.scope());
    // In a box: the future of each waiting caller would hold a client.
    match Box::pin(clients.known(&request.client, records_failed)).await {
        Ok(_) => limits.check_client(&request.client),
        Err(_) => Ok(()),
    }
}
