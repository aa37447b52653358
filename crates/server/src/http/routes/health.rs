//! Health probes: a status code for programs, and with `?verbose` the result of each check.

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use filepull_core::problem::Problem;

use crate::http::App;
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
    RawQuery(query): RawQuery,
) -> Result<Response, Rejection> {
    let verbose = is_verbose(query.as_deref())?;
    let checks = readiness(&app).check().await;
    let ready = checks.iter().all(|check| check.ok);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let details = if verbose || !ready { to_text(&checks) } else { String::new() };
    let result = if ready { "ready" } else { "not ready" };
    Ok(response::plain_text(status, format!("{details}{result}\n")))
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
