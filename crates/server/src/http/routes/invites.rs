//! Handles `POST /api/v1/invites`, and what administrators do with a client.

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use filepull_core::id::ClientId;
use filepull_core::invite::{Invitee, ServerAddress};
use serde::Serialize;

use crate::client::Labels;
use crate::client_admin::{CreatedInvite, InviteFailure, InviteRequest};
use crate::http::App;
use crate::http::request::body;
use crate::http::request::caller::Caller;
use crate::http::request::extract::ClientParam;
use crate::http::request::params::{NoParams, rfc3339};
use crate::http::request::rejection::Rejection;
use crate::http::response;
use crate::http::response::problem::records_failed;
use crate::http::response::resource::ClientJson;

/// Maximum length of a request in bytes: 100,000 clients with a few labels.
const MAX_LEN: usize = 16 << 20;

/// The answer to a list of clients.
#[derive(Debug, Serialize)]
struct InvitesJson<'a> {
    items: Vec<InviteJson<'a>>,
}

/// The JSON object of an invite.
#[derive(Debug, Serialize)]
struct InviteJson<'a> {
    id: String,
    client: Option<&'a ClientId>,
    group: Option<&'a str>,
    uses: u32,
    approve: bool,
    replace: bool,
    labels: &'a Labels,
    created_at: String,
    expires_at: String,
    server_addresses: &'a [ServerAddress],
    /// The secret text. The server cannot show it again.
    invite: String,
    /// The command that starts an agent with it.
    install: String,
}

impl<'a> From<&'a CreatedInvite> for InviteJson<'a> {
    fn from(created: &'a CreatedInvite) -> Self {
        let CreatedInvite { recorded, invite } = created;
        let (client, group) = match &recorded.invitee {
            Invitee::Client(client) => (Some(client), None),
            Invitee::Group(group) => (None, Some(group.as_str())),
        };
        let text = invite.encode();
        // In the environment, because every user of a machine can read the arguments of a process.
        let id = if group.is_some() { "CLIENT_ID=ID " } else { "" };
        Self {
            id: recorded.id.to_string(),
            client,
            group,
            uses: recorded.uses,
            approve: recorded.approve,
            replace: recorded.replace,
            labels: &recorded.labels,
            created_at: rfc3339(recorded.created_at),
            expires_at: rfc3339(recorded.expires_at),
            server_addresses: invite.addresses(),
            install: format!("{id}INVITE={text} filepull-agent"),
            invite: text,
        }
    }
}

/// Handles `POST /api/v1/invites`.
pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    _: NoParams,
    request: Request,
) -> Result<Response, Rejection> {
    let body = body::read_json(request, MAX_LEN).await?;
    let request = InviteRequest::parse(&body)?;
    let is_list = request.is_list;
    let created = app.admin.invite(request, &caller.actor()).await.map_err(rejection)?;
    let mut items: Vec<_> = created.iter().map(InviteJson::from).collect();
    let mut response = match items.pop() {
        Some(invite) if !is_list => response::json(StatusCode::CREATED, &invite),
        last => {
            items.extend(last);
            response::json(StatusCode::CREATED, &InvitesJson { items })
        }
    };
    // The answer holds secrets.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn rejection(failure: InviteFailure) -> Rejection {
    let InviteFailure { problem, client } = failure;
    let rejection = Rejection::from(problem);
    match client {
        Some(client) => rejection.with("client", client.as_str()),
        None => rejection,
    }
}

/// Handles `POST /api/v1/clients/ID/approve`.
pub(crate) async fn approve(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    _: NoParams,
    ClientParam(id): ClientParam,
) -> Result<Response, Rejection> {
    app.admin.approve(&id, &caller.actor()).await?;
    client(&app, &id, StatusCode::OK).await
}

/// Handles `DELETE /api/v1/clients/ID`: forgets the client. Its downloads stay.
pub(crate) async fn forget(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    _: NoParams,
    ClientParam(id): ClientParam,
) -> Result<Response, Rejection> {
    app.admin.forget(&id, &caller.actor()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Handles `POST /api/v1/clients/ID/rotate`: requests a new key. 202, because the client sends it later.
pub(crate) async fn rotate(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    _: NoParams,
    ClientParam(id): ClientParam,
) -> Result<Response, Rejection> {
    app.admin.rotate(&id, &caller.actor()).await?;
    client(&app, &id, StatusCode::ACCEPTED).await
}

async fn client(app: &App, id: &ClientId, status: StatusCode) -> Result<Response, Rejection> {
    let client = app.clients.everything().known(id, records_failed).await?;
    let last = app.records.newest(id).await.map_err(|error| records_failed(&error))?;
    let details = super::clients::details(app, client, last);
    Ok(response::json(status, &ClientJson::new(&details)))
}
