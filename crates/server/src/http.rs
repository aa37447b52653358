//! The HTTP listener for operators: `/trigger`, the pages, the API under `/api/v1` and the probes.
//!
//! A URL that a person can open answers in plain text or in JSON, as the request asks; the API
//! always answers in JSON. A handler parses the request, calls `transfers`, `known_clients`,
//! `records` or `store`, and formats the result. It owns no state, so that a caller that disconnects changes nothing. A
//! handler that fails returns a [`Rejection`](request::rejection::Rejection), which `middleware`
//! renders.

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

/// The parts of the server that handlers use.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) transfers: Transfers,
    pub(crate) clients: KnownClients,
    pub(crate) records: Records,
    pub(crate) store: Store,
    /// Ends every wait of a request when the server drains.
    pub(crate) lifecycle: Lifecycle,
    pub(crate) about: About,
}

/// Facts about this process for `/server`, set at startup.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) version: &'static str,
    pub(crate) started_at: DateTime<Utc>,
    pub(crate) http_addr: SocketAddr,
    pub(crate) grpc_addr: SocketAddr,
    /// `DATA_DIR` as the operator wrote it, for texts such as `saved server-data/client4/…`.
    pub(crate) data_dir: String,
    /// The settings in effect, in the order of the page. Secrets are hidden.
    pub(crate) settings: Vec<(&'static str, Setting)>,
}

/// Returns all routes with their middleware.
pub(crate) fn router(app: App) -> Router {
    let routes = Router::new()
        .route("/", get(home::commands_page))
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
    with_middleware(routes, app)
}

/// Adds what every request needs, including a request for an unknown URL.
fn with_middleware(routes: Router<App>, app: App) -> Router {
    let log = RequestLog::new(app.lifecycle.clone());
    let answered = routes
        .fallback(middleware::no_such_url)
        .method_not_allowed_fallback(middleware::method_not_allowed)
        .layer(CatchPanicLayer::custom(middleware::panicked))
        .layer(from_fn_with_state((log, app.about.http_addr), middleware::answer))
        .with_state(app);
    Router::new().fallback_service(answered).layer(map_response(middleware::render))
}

/// Returns the routes that exist twice: as pages without a prefix, and as JSON under `/api/v1`.
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
