//! `/api/v1/ca`: the certificate authority that agents pin, and the steps of its rotation.

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use filepull_core::fingerprint::Fingerprint;
use filepull_core::human;
use filepull_core::problem::{Code, Problem};
use serde::Serialize;
use tracing::error;

use crate::http::App;
use crate::http::request::body::RequestParams;
use crate::http::request::caller::Caller;
use crate::http::request::params::{NoParams, rfc3339};
use crate::http::request::rejection::Rejection;
use crate::http::response;
use crate::http::response::problem::records_failed;
use crate::records::{PinHolders, PinWaits};
use crate::tls::{
    AuthorityFacts, CaRotation, OwnAuthorityError, RotationError, RotationState, RotationStatus,
    RotationStep, WithoutPin,
};

/// Maximum number of clients in a sentence. More would hide it.
const MAX_NAMED: usize = 20;

/// Handles `GET /api/v1/ca`.
pub(crate) async fn show(State(app): State<App>, _: NoParams) -> Result<Response, Rejection> {
    let status = rotation(&app)?.status().await.map_err(|error| records_failed(&error))?;
    Ok(response::json(StatusCode::OK, &CaJson::from(&status)))
}

/// Handles `POST /api/v1/ca/rotate`.
pub(crate) async fn rotate(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    RequestParams(params): RequestParams,
) -> Result<Response, Rejection> {
    params.only(&[])?;
    perform(&app, &caller, RotationStep::Announce, WithoutPin::Accept).await
}

/// Handles `POST /api/v1/ca/switch`.
pub(crate) async fn switch(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    RequestParams(params): RequestParams,
) -> Result<Response, Rejection> {
    params.only(&["force"])?;
    perform(&app, &caller, RotationStep::Switch, without_pin(params.flag("force")?)).await
}

/// Handles `POST /api/v1/ca/retire`.
pub(crate) async fn retire(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    RequestParams(params): RequestParams,
) -> Result<Response, Rejection> {
    params.only(&["force"])?;
    perform(&app, &caller, RotationStep::Retire, without_pin(params.flag("force")?)).await
}

async fn perform(
    app: &App,
    caller: &Caller,
    step: RotationStep,
    without_pin: WithoutPin,
) -> Result<Response, Rejection> {
    let done = rotation(app)?.step(step, without_pin, &caller.actor()).await;
    let status = done.map_err(|error| rejection(step, &error))?;
    Ok(response::json(StatusCode::OK, &CaJson::from(&status)))
}

fn without_pin(force: bool) -> WithoutPin {
    if force { WithoutPin::Accept } else { WithoutPin::Refuse }
}

fn rotation(app: &App) -> Result<&CaRotation, Problem> {
    app.rotation.as_ref().ok_or_else(|| {
        let detail = "This server has no certificate authority of its own: its agents use plain text, \
                      or the certificate in TLS_CERT.";
        let hint = "The server makes an authority at its start with AGENT_AUTH=invite and without \
                    TLS_CERT.";
        Problem::new(Code::RotationBlocked, detail).hint(hint)
    })
}

fn rejection(step: RotationStep, error: &RotationError) -> Rejection {
    match error {
        RotationError::Lacking(status) => lacking(step, status),
        RotationError::Authority(OwnAuthorityError::Step(error)) => {
            let detail = format!("This step is not possible now: {error}.");
            Problem::new(Code::RotationBlocked, detail).into()
        }
        RotationError::Authority(error) => {
            error!(
                event = "authority.failed", error = %human::chain(error),
                "the certificate authority cannot be changed"
            );
            let detail = "The server could not change the files of its certificate authority.";
            Problem::new(Code::StorageFailed, detail).into()
        }
        RotationError::Records(error) => records_failed(error).into(),
    }
}

fn lacking(step: RotationStep, status: &RotationStatus) -> Rejection {
    let detail = format!("The new pin is missing: {}.", missing(step, status).join("; "));
    let hint = match step {
        RotationStep::Retire => {
            "Wait until they have connected or the invites have expired. With force=1 they need a new \
             invite: filepull invite ID --replace"
        }
        RotationStep::Announce | RotationStep::Switch => {
            "Wait until they have connected. With force=1 the server switches now; they get the pin \
             when they connect, until the old authority is retired."
        }
    };
    let problem = Problem::new(Code::RotationBlocked, detail).hint(hint);
    let without: Vec<_> = status.holders.without.iter().map(ToString::to_string).collect();
    let n_without = status.holders.n_without;
    Rejection::from(problem).with("clients_without_pin", n_without).with("without", without)
}

/// Returns who would be cut off by the step.
fn missing(step: RotationStep, status: &RotationStatus) -> Vec<String> {
    let PinHolders { n_without, without, .. } = &status.holders;
    let mut texts = Vec::new();
    if 0 < *n_without {
        let named: Vec<_> = without.iter().take(MAX_NAMED).map(ToString::to_string).collect();
        let rest = if named.len() < without.len() { ", ..." } else { "" };
        let named = named.join(", ");
        texts.push(format!("{} ({named}{rest})", counted(*n_without, "enrolled client")));
    }
    let PinWaits { n_pending, n_invites } = status.waits;
    if step == RotationStep::Retire && 0 < n_pending {
        texts.push(format!("{} that no operator has approved", counted(n_pending, "client")));
    }
    if step == RotationStep::Retire && 0 < n_invites {
        texts.push(format!("{} from before the rotation", counted(n_invites, "open invite")));
    }
    texts
}

fn counted(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[derive(Debug, Serialize)]
struct CaJson {
    state: RotationState,
    since: String,
    current: AuthorityJson,
    next: Option<AuthorityJson>,
    previous: Option<AuthorityJson>,
    clients: HoldersJson,
}

#[derive(Debug, Serialize)]
struct AuthorityJson {
    fingerprint: Fingerprint,
    expires_at: String,
}

/// Which enrolled clients have the newest pin.
#[derive(Debug, Serialize)]
struct HoldersJson {
    pin: Fingerprint,
    with_pin: u64,
    without_pin: u64,
    /// The ids of clients without the pin, sorted; at most 1000.
    without: Vec<String>,
    /// Clients without the pin that no operator has approved: they learn it after that.
    pending_without_pin: u64,
    /// Invites from before the rotation that can still be used.
    invites_without_pin: u64,
}

impl From<&RotationStatus> for CaJson {
    fn from(status: &RotationStatus) -> Self {
        let RotationStatus { view, newest, holders, waits } = status;
        Self {
            state: view.state,
            since: rfc3339(view.since),
            current: view.current.into(),
            next: view.next.map(Into::into),
            previous: view.previous.map(Into::into),
            clients: HoldersJson {
                pin: *newest,
                with_pin: holders.n_with,
                without_pin: holders.n_without,
                without: holders.without.iter().map(ToString::to_string).collect(),
                pending_without_pin: waits.n_pending,
                invites_without_pin: waits.n_invites,
            },
        }
    }
}

impl From<AuthorityFacts> for AuthorityJson {
    fn from(facts: AuthorityFacts) -> Self {
        let expires_at = rfc3339(DateTime::<Utc>::from(facts.not_after));
        Self { fingerprint: facts.fingerprint, expires_at }
    }
}
