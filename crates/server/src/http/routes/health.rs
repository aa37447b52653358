//! Health probes: a status code for programs, and with `?verbose` the result of each check.

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use filepull_core::problem::Problem;

use crate::http::App;
use crate::http::request::caller::Caller;
use crate::http::request::params::Params;
use crate::http::request::rejection::Rejection;
use crate::http::response;
use crate::readiness::{Readiness, ReadyCheck};

/// Handles `/livez` and `/healthz`: the process answers requests.
pub(crate) async fn livez(RawQuery(query): RawQuery) -> Result<Response, Rejection> {
    is_verbose(query.as_deref())?;
    Ok(response::plain_text(StatusCode::OK, "ok\n".to_owned()))
}

/// Handles `/readyz`: the server can accept a pull and store a file.
pub(crate) async fn readyz(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Result<Response, Rejection> {
    let verbose = is_verbose(query.as_deref())?;
    let mut checks = readiness(&app).check().await;
    if !caller.scope().is_everything() {
        checks.iter_mut().for_each(hide_counts);
    }
    let ready = checks.iter().all(|check| check.ok);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let details = if verbose || !ready { to_text(&checks) } else { String::new() };
    let result = if ready { "ready" } else { "not ready" };
    Ok(response::plain_text(status, format!("{details}{result}\n")))
}

/// Hides how many clients and transfers there are from a caller who may not see all of them.
fn hide_counts(check: &mut ReadyCheck) {
    if matches!(check.name, "grpc" | "storing" | "downloads" | "draining") {
        check.finding =
            if check.ok { "ok" } else { "failed; an administrator sees why" }.to_owned();
    }
}

/// Parses `verbose`, the only parameter. All probes accept it: some programs always add it.
fn is_verbose(query: Option<&str>) -> Result<bool, Problem> {
    let params = Params::from_query(query)?;
    params.only(&["verbose"])?;
    params.flag("verbose")
}

fn readiness(app: &App) -> Readiness {
    Readiness {
        transfers: app.transfers.clone(),
        clients: app.clients.clone(),
        grpc_addr: app.about.grpc_addr,
        tls: app.tls.clone(),
    }
}

fn to_text(checks: &[ReadyCheck]) -> String {
    let line = |check: &ReadyCheck| {
        let sign = if check.ok { '+' } else { '-' };
        format!("[{sign}] {:<13} {}\n", check.name, check.finding)
    };
    checks.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verbose_text_shows_which_checks_passed() {
        let check = |ok, name, finding: &str| ReadyCheck { ok, name, finding: finding.to_owned() };
        let checks = [
            check(true, "data folder", "writable, 812.0 GiB free"),
            check(false, "draining", "shutdown requested, 2 transfers still running"),
        ];
        let expected = "[+] data folder   writable, 812.0 GiB free\n\
                        [-] draining      shutdown requested, 2 transfers still running\n";
        assert_eq!(to_text(&checks), expected);
    }
}
