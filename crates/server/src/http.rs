//! What operators touch: `/trigger`, the pages, the API under `/api/v1` and the probes.
//!
//! Every URL that a person can open answers in plain text or in JSON, whichever is asked for;
//! the API is always JSON. Handlers parse, ask `transfers` and `registry`, and put the answer into
//! words; they own nothing, so a caller that hangs up changes nothing. A handler that cannot
//! answer returns a `Refusal`, which `frame` renders for all of them in one place.

mod connection;
mod middleware;
mod request;
mod request_log;
mod response;
mod routes;
mod server;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use axum::Router;
use axum::middleware::{from_fn_with_state, map_response};
use axum::routing::{get, post};
use chrono::{DateTime, Utc};
use filepull_process::Lifecycle;
use tower_http::catch_panic::CatchPanicLayer;

use crate::config::Setting;
use crate::known_clients::KnownClients;
use crate::records::Records;
use crate::store::Store;
use crate::transfers::Transfers;
use request_log::RequestLog;
use routes::{clients, files, health, home, problems, server_info, transfers, trigger};
pub(crate) use server::serve;

/// The parts of the server that operators ask, or ask about.
#[derive(Clone, Debug)]
pub(crate) struct App {
    /// Makes and finds transfers.
    pub transfers: Transfers,
    /// Finds clients, connected or not.
    pub clients: KnownClients,
    /// What is on record.
    pub records: Records,
    /// The disk.
    pub store: Store,
    /// Says when to stop waiting.
    pub lifecycle: Lifecycle,
    /// What the server says of itself.
    pub about: About,
}

/// What the server says of itself: fixed at the start.
#[derive(Clone, Debug)]
pub(crate) struct About {
    /// The version of this program.
    pub version: &'static str,
    /// When it was started.
    pub started_at: DateTime<Utc>,
    /// Where operators connect.
    pub http_addr: SocketAddr,
    /// Where agents dial.
    pub grpc_addr: SocketAddr,
    /// The data folder as it was given, for "saved server-data/client4/…".
    pub data_dir: String,
    /// The settings in effect, secrets hidden, in the order they are shown.
    pub settings: Vec<(&'static str, Setting)>,
}

/// Everything that operators can ask for.
pub(crate) fn router(app: App) -> Router {
    let routes = Router::new()
        .route("/", get(home::cheat_sheet))
        .route("/robots.txt", get(home::robots))
        .route("/trigger", trigger::methods(trigger::by_parameter))
        .route("/trigger/{id}", trigger::methods(trigger::by_path))
        .route("/problems", get(problems::list))
        .route("/problems/{code}", get(problems::show))
        .route("/livez", get(health::livez))
        .route("/healthz", get(health::livez))
        .route("/readyz", get(health::readyz))
        .merge(resources("/api/v1"))
        .merge(resources(""))
        .route("/api/v1/transfers", post(transfers::create));
    framed(routes, app)
}

/// Puts around all routes what every request gets, those included that lead nowhere.
fn framed(routes: Router<App>, app: App) -> Router {
    let log = RequestLog::new(app.lifecycle.clone());
    let framed = routes
        .fallback(middleware::no_such_url)
        .method_not_allowed_fallback(middleware::method_not_allowed)
        .layer(CatchPanicLayer::custom(middleware::panicked))
        .layer(from_fn_with_state((log, app.about.http_addr), middleware::frame))
        .with_state(app);
    Router::new().fallback_service(framed).layer(map_response(middleware::render))
}

/// What has the same URL as a page and, under `/api/v1`, as JSON.
fn resources(prefix: &str) -> Router<App> {
    Router::new()
        .route(&format!("{prefix}/clients"), get(clients::list))
        .route(&format!("{prefix}/clients/{{id}}"), get(clients::show))
        .route(&format!("{prefix}/clients/{{id}}/file"), get(files::newest_of_client))
        .route(&format!("{prefix}/clients/{{id}}/cancel"), post(transfers::cancel_of_client))
        .route(&format!("{prefix}/transfers"), get(transfers::list))
        .route(&format!("{prefix}/transfers/{{id}}"), get(transfers::show))
        .route(&format!("{prefix}/transfers/{{id}}/file"), get(files::of_transfer))
        .route(&format!("{prefix}/transfers/{{id}}/cancel"), post(transfers::cancel))
        .route(&format!("{prefix}/server"), get(server_info::show))
}
