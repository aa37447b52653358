//! The HTTP listener for operators: `/trigger`, the pages, the API under `/api/v1` and the probes.
//!
//! A URL that a person can open answers in plain text or in JSON, as the request asks; the API
//! always answers in JSON. A handler parses the request, calls `transfers`, `known_clients`,
//! `records` or `store`, and formats the result. It owns no state, so that a caller that disconnects changes nothing. A
//! handler that fails returns a [`Rejection`](request::rejection::Rejection), which `middleware`
//! renders.

mod connection;
mod middleware;
mod rejections;
mod request;
mod request_log;
mod response;
mod routes;
mod routing;
mod server;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use axum::http::Method;
use axum::middleware::{from_fn_with_state, map_response, map_response_with_state};
use chrono::{DateTime, Utc};
use filepull_process::Lifecycle;
use tower_http::catch_panic::CatchPanicLayer;

use crate::client_admin::ClientAdmin;
use crate::config::{Setting, TriggerGet};
use crate::known_clients::KnownClients;
use crate::records::Records;
use crate::rejection_audit::RejectionAudit;
use crate::store::Store;
use crate::tls::{CaRotation, TlsStatus};
use crate::transfers::Transfers;
use middleware::Surroundings;
pub(crate) use request::gate::Gate;
use request_log::RequestLog;
use routes::{
    audit, ca, clients, files, health, home, invites, problems, receipt, server_info, transfers,
    trigger, whoami,
};
use routing::{ADMIN, OPERATOR, PUBLIC, Routes, VIEWER};
pub use routing::{Access, RouteRule};
pub(crate) use server::OperatorListener;

/// The parts of the server that handlers use. Shared, because the routers clone it several times for each
/// request, and a request may wait for hours.
#[derive(Clone, Debug)]
pub(crate) struct App(Arc<AppParts>);

impl From<AppParts> for App {
    fn from(parts: AppParts) -> Self {
        Self(Arc::new(parts))
    }
}

impl Deref for App {
    type Target = AppParts;

    fn deref(&self) -> &AppParts {
        &self.0
    }
}

/// What an [`App`] shares.
#[derive(Debug)]
pub(crate) struct AppParts {
    pub(crate) transfers: Transfers,
    pub(crate) clients: KnownClients,
    pub(crate) admin: ClientAdmin,
    pub(crate) records: Records,
    pub(crate) rejections: RejectionAudit,
    pub(crate) store: Store,
    /// The own certificate authority. None: agents pin none.
    pub(crate) rotation: Option<CaRotation>,
    /// The certificates of both listeners.
    pub(crate) tls: TlsStatus,
    pub(crate) gate: Gate,
    /// Whether a GET of `/trigger` starts a pull.
    pub(crate) trigger_get: TriggerGet,
    /// Ends every wait of a request when the server drains.
    pub(crate) lifecycle: Lifecycle,
    pub(crate) about: About,
}

/// Facts about this process for `/server`, set at startup.
#[derive(Debug)]
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
    with_middleware(routes(), app)
}

/// Returns the access rule of each route.
pub fn route_rules() -> Vec<RouteRule> {
    routes().rules().to_vec()
}

/// Returns all routes with their access rules.
fn routes() -> Routes {
    let routes = Routes::default()
        .add(Method::GET, "/", VIEWER, home::commands_page)
        .add(Method::GET, "/robots.txt", PUBLIC, home::robots)
        .add(Method::GET, "/trigger", OPERATOR, trigger::by_parameter)
        .add(Method::POST, "/trigger", OPERATOR, trigger::by_parameter)
        .reject_others("/trigger", trigger::reject_method)
        .add(Method::GET, "/trigger/{id}", OPERATOR, trigger::by_path)
        .add(Method::POST, "/trigger/{id}", OPERATOR, trigger::by_path)
        .reject_others("/trigger/{id}", trigger::reject_method)
        .add(Method::GET, "/problems", PUBLIC, problems::list)
        .add(Method::GET, "/problems/{code}", PUBLIC, problems::show)
        .add(Method::GET, "/livez", PUBLIC, health::livez)
        .add(Method::GET, "/healthz", PUBLIC, health::livez)
        .add(Method::GET, "/readyz", PUBLIC, health::readyz)
        .add(Method::POST, "/api/v1/transfers", OPERATOR, transfers::create)
        .add(Method::GET, "/api/v1/transfers/{id}/receipt", OPERATOR, receipt::of_transfer)
        .add(Method::POST, "/api/v1/invites", ADMIN, invites::create)
        .add(Method::DELETE, "/api/v1/clients/{id}", ADMIN, invites::forget)
        .add(Method::POST, "/api/v1/clients/{id}/approve", ADMIN, invites::approve)
        .add(Method::POST, "/api/v1/clients/{id}/rotate", ADMIN, invites::rotate)
        .add(Method::GET, "/api/v1/ca", ADMIN, ca::show)
        .add(Method::POST, "/api/v1/ca/rotate", ADMIN, ca::rotate)
        .add(Method::POST, "/api/v1/ca/switch", ADMIN, ca::switch)
        .add(Method::POST, "/api/v1/ca/retire", ADMIN, ca::retire)
        .add(Method::GET, "/api/v1/whoami", VIEWER, whoami::show);
    resources(resources(routes, ""), "/api/v1")
}

/// Adds the routes that exist twice: as pages without a prefix, and as JSON under `/api/v1`.
fn resources(routes: Routes, prefix: &str) -> Routes {
    let path = |path: &str| format!("{prefix}{path}");
    routes
        .add(Method::GET, &path("/clients"), VIEWER, clients::list)
        .add(Method::GET, &path("/clients/{id}"), VIEWER, clients::show)
        .add(Method::GET, &path("/clients/{id}/file"), OPERATOR, files::newest_of_client)
        .add(Method::POST, &path("/clients/{id}/cancel"), OPERATOR, transfers::cancel_of_client)
        .add(Method::GET, &path("/transfers"), VIEWER, transfers::list)
        .add(Method::GET, &path("/transfers/{id}"), VIEWER, transfers::show)
        .add(Method::GET, &path("/transfers/{id}/file"), OPERATOR, files::of_transfer)
        .add(Method::POST, &path("/transfers/{id}/cancel"), OPERATOR, transfers::cancel)
        .add(Method::GET, &path("/server"), VIEWER, server_info::show)
        .add(Method::GET, &path("/audit"), ADMIN, audit::list)
}

/// Adds what every request needs, including a request for an unknown URL.
fn with_middleware(routes: Routes, app: App) -> Router {
    let surroundings = Surroundings {
        log: RequestLog::new(app.lifecycle.clone()),
        own_addr: app.about.http_addr,
        gate: app.gate.clone(),
    };
    let rejections = app.rejections.clone();
    let answered = routes
        .into_router()
        .fallback(middleware::no_such_url)
        .method_not_allowed_fallback(middleware::method_not_allowed)
        .layer(CatchPanicLayer::custom(middleware::panicked))
        .layer(from_fn_with_state(surroundings, middleware::answer))
        .with_state(app);
    Router::new()
        .fallback_service(answered)
        .layer(map_response_with_state(rejections, rejections::record))
        .layer(map_response(middleware::render))
}
