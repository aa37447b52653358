//! Probes: a status code for machines, and with `?verbose` the reasons for people.

use std::io;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use filepull_core::human;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{App, reply, say};
use crate::store::Store;

/// A disk that has not answered by then is not one to store files on.
const DISK_LIMIT: Duration = Duration::from_secs(2);

/// One thing that must hold.
#[derive(Debug)]
struct Check {
    ok: bool,
    name: &'static str,
    finding: String,
}

/// `/livez` and `/healthz`: the process turns.
pub(super) async fn livez() -> Response {
    reply::text(StatusCode::OK, "ok\n".to_owned())
}

/// `/readyz`: the server can take a pull and store a file.
pub(super) async fn readyz(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    let checks = [data_folder(&app).await, grpc(&app), draining(&app)];
    let ready = checks.iter().all(|check| check.ok);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let query = query.unwrap_or_default();
    let verbose = query.split('&').any(|pair| pair.split('=').next() == Some("verbose"));
    let details = if verbose || !ready { words(&checks) } else { String::new() };
    let verdict = if ready { "ready" } else { "not ready" };
    reply::text(status, format!("{details}{verdict}\n"))
}

fn words(checks: &[Check]) -> String {
    let line = |check: &Check| {
        let sign = if check.ok { '+' } else { '-' };
        format!("[{sign}] {:<13} {}\n", check.name, check.finding)
    };
    checks.iter().map(line).collect()
}

async fn data_folder(app: &App) -> Check {
    let (store, min_free) = (app.store.clone(), app.transfers.limits().min_free);
    let looked = timeout(DISK_LIMIT, spawn_blocking(move || look(&store))).await;
    let (ok, finding) = match looked {
        Ok(Ok(Ok(free))) => judge(free, min_free),
        Ok(Ok(Err(error))) => (false, format!("not writable: {error}")),
        Ok(Err(error)) => (false, error.to_string()),
        Err(_) => (false, format!("does not answer within {}", human::span(DISK_LIMIT))),
    };
    Check { ok, name: "data folder", finding }
}

fn look(store: &Store) -> io::Result<u64> {
    store.check_writable()?;
    store.free()
}

fn judge(free: u64, min_free: u64) -> (bool, String) {
    let (ok, said) = (min_free <= free, human::size(free));
    let must = format!("; {} must stay free", human::size(min_free));
    (ok, format!("writable, {said} free{}", if ok { String::new() } else { must }))
}

/// Both listeners are bound before either answers, and both end with the process.
fn grpc(app: &App) -> Check {
    let (addr, (online, known)) = (app.about.grpc_addr, app.registry.counts());
    let finding = format!("listening on {addr}, {online} of {known} clients online");
    Check { ok: true, name: "grpc", finding }
}

fn draining(app: &App) -> Check {
    let ok = !app.transfers.is_stopping();
    let finding = if ok {
        "no".to_owned()
    } else {
        let running = say::count(app.transfers.counts().running, "transfer", "transfers");
        format!("shutdown requested, {running} still running")
    };
    Check { ok, name: "draining", finding }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_what_holds_and_what_does_not() {
        let (ok, finding) = judge(812 << 30, 1 << 30);
        let folder = Check { ok, name: "data folder", finding };
        let (ok, finding) = judge(1 << 20, 1 << 30);
        let full = Check { ok, name: "grpc", finding };
        let expected = "[+] data folder   writable, 812.0 GiB free\n\
                        [-] grpc          writable, 1.0 MiB free; 1.0 GiB must stay free\n";
        assert_eq!(words(&[folder, full]), expected);
    }
}
