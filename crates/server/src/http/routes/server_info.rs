//! `/server`: version, counts, disk, limits and settings of the server.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use chrono::Utc;
use filepull_core::fingerprint::Fingerprint;
use filepull_core::human;
use serde::Serialize;

use crate::config::Setting;
use crate::http::request::caller::Caller;
use crate::http::request::params::{NoParams, rfc3339};
use crate::http::response;
use crate::http::response::text::table;
use crate::http::{About, App};
use crate::known_clients::ClientCounts;
use crate::store::{CopyMode, WriteMode};
use crate::tls::CertificateView;
use crate::transfers::{Limits, TransferCounts};

/// The values that are measured for each request.
#[derive(Debug)]
struct ServerStats {
    uptime: Duration,
    clients: ClientCounts,
    counts: TransferCounts,
    limits: Limits,
    free_bytes: Option<u64>,
    writes: WriteMode,
    copies: CopyMode,
    certificates: Vec<CertificateView>,
}

/// Handles `/server` and `GET /api/v1/server`.
pub(crate) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    _: NoParams,
) -> Response {
    respond(&app, &caller).await
}

pub(crate) async fn respond(app: &App, caller: &Caller) -> Response {
    let space = app.transfers.disk().space(Duration::from_secs(1)).await;
    let stats = ServerStats {
        uptime: (Utc::now() - app.about.started_at).to_std().unwrap_or_default(),
        clients: app.clients.within(caller.scope()).counts().await,
        counts: app.transfers.counts(caller.scope()).await,
        limits: app.transfers.limits(),
        free_bytes: space.ok().map(|space| space.bytes),
        writes: app.store.write_mode(),
        copies: app.store.copy_mode(),
        certificates: app.tls.views(SystemTime::now()),
    };
    response::text_or_json(
        caller,
        || to_text(&app.about, &stats),
        || ServerJson::new(&app.about, &stats),
    )
}

fn to_text(about: &About, stats: &ServerStats) -> String {
    let online = stats.clients.online;
    let offline = stats.clients.offline();
    let TransferCounts { running, waiting } = stats.counts;
    let free = stats.free_bytes.map_or("unknown".to_owned(), human::size);
    let up = human::span(stats.uptime);
    let min_free = human::size(stats.limits.min_free);
    let mut rows = vec![
        ["server".to_owned(), format!("{}  up {up}", about.version)],
        ["clients".to_owned(), format!("{online} online, {offline} offline")],
        ["transfers".to_owned(), format!("{running} running, {waiting} waiting")],
        ["disk".to_owned(), format!("{}  {free} free, {min_free} must stay free", about.data_dir)],
        ["writes".to_owned(), stats.writes.as_text().to_owned()],
        ["copies".to_owned(), stats.copies.as_text().to_owned()],
    ];
    rows.extend(stats.certificates.iter().map(|certificate| {
        let CertificateView { text, fingerprint, .. } = certificate;
        ["certificate".to_owned(), format!("{text}, key {fingerprint}")]
    }));
    rows.push([String::new(), String::new()]);
    let settings = about.settings.iter();
    rows.extend(settings.map(|(name, value)| [(*name).to_owned(), value.as_text()]));
    table(&rows)
}

#[derive(Debug, Serialize)]
struct ServerJson<'a> {
    version: &'static str,
    started_at: String,
    uptime_seconds: u64,
    http_addr: String,
    grpc_addr: String,
    clients: ClientsJson,
    transfers: TransfersJson,
    disk: DiskJson<'a>,
    certificates: Vec<CertificateJson>,
    limits: LimitsJson,
    settings: BTreeMap<&'static str, &'a Setting>,
}

#[derive(Debug, Serialize)]
struct ClientsJson {
    online: usize,
    offline: usize,
}

#[derive(Debug, Serialize)]
struct TransfersJson {
    running: usize,
    waiting: usize,
}

#[derive(Debug, Serialize)]
struct DiskJson<'a> {
    path: &'a str,
    free_bytes: Option<u64>,
    min_free_bytes: u64,
    /// `direct`: large files are written past the page cache. `buffered`: all are written through it.
    writes: &'static str,
    /// `cloned`: a download shares blocks with the last one of its file. `written`: all are written.
    copies: &'static str,
}

/// A certificate of this server, or its own authority.
#[derive(Debug, Serialize)]
struct CertificateJson {
    /// `own authority` issued it, or the setting that names its file; `authority` is the authority itself.
    source: &'static str,
    fingerprint: Fingerprint,
    expires_at: String,
    warning: Option<String>,
}

impl From<&CertificateView> for CertificateJson {
    fn from(view: &CertificateView) -> Self {
        Self {
            source: view.source,
            fingerprint: view.fingerprint,
            expires_at: rfc3339(view.not_after),
            warning: view.warning.clone(),
        }
    }
}

#[derive(Debug, Serialize)]
struct LimitsJson {
    max_running: usize,
    max_waiting: usize,
    max_file_size: u64,
    stall_timeout_seconds: u64,
    resume_within_seconds: u64,
}

impl<'a> ServerJson<'a> {
    fn new(about: &'a About, stats: &ServerStats) -> Self {
        let limits = &stats.limits;
        let clients = stats.clients;
        Self {
            version: about.version,
            started_at: rfc3339(about.started_at),
            uptime_seconds: stats.uptime.as_secs(),
            http_addr: about.http_addr.to_string(),
            grpc_addr: about.grpc_addr.to_string(),
            clients: ClientsJson { online: clients.online, offline: clients.offline() },
            transfers: TransfersJson {
                running: stats.counts.running,
                waiting: stats.counts.waiting,
            },
            disk: DiskJson {
                path: &about.data_dir,
                free_bytes: stats.free_bytes,
                min_free_bytes: limits.min_free,
                writes: stats.writes.as_str(),
                copies: stats.copies.as_str(),
            },
            certificates: stats.certificates.iter().map(Into::into).collect(),
            limits: LimitsJson {
                max_running: limits.max_running,
                max_waiting: limits.max_waiting,
                max_file_size: limits.max_file_size,
                stall_timeout_seconds: limits.stall_timeout.as_secs(),
                resume_within_seconds: limits.resume_within.as_secs(),
            },
            settings: about.settings.iter().map(|(name, value)| (*name, value)).collect(),
        }
    }
}
