//! Probes: a status code for machines, and with `?verbose` the reasons for people.

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use filepull_core::problem::Problem;

use crate::http::App;
use crate::http::request::params::Params;
use crate::http::request::rejection::Rejection;
use crate::http::response;
use crate::readiness::{Readiness, ReadyCheck};

/// `/livez` and `/healthz`: the process turns.
pub(crate) async fn livez(RawQuery(query): RawQuery) -> Result<Response, Rejection> {
    is_verbose(query.as_deref())?;
    Ok(response::plain_text(StatusCode::OK, "ok\n".to_owned()))
}

/// `/readyz`: the server can take a pull and store a file.
pub(crate) async fn readyz(
    State(app): State<App>,
    RawQuery(query): RawQuery,
) -> Result<Response, Rejection> {
    let verbose = is_verbose(query.as_deref())?;
    let checks = readiness(&app).check().await;
    let ready = checks.iter().all(|check| check.ok);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let details = if verbose || !ready { words(&checks) } else { String::new() };
    let verdict = if ready { "ready" } else { "not ready" };
    Ok(response::plain_text(status, format!("{details}{verdict}\n")))
}

/// The one parameter of the probes, because some programs add it to every request.
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
    }
}

fn words(checks: &[ReadyCheck]) -> String {
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
    fn a_person_sees_what_holds_and_what_does_not() {
        let check = |ok, name, finding: &str| ReadyCheck { ok, name, finding: finding.to_owned() };
        let checks = [
            check(true, "data folder", "writable, 812.0 GiB free"),
            check(false, "draining", "shutdown requested, 2 transfers still running"),
        ];
        let expected = "[+] data folder   writable, 812.0 GiB free\n\
                        [-] draining      shutdown requested, 2 transfers still running\n";
        assert_eq!(words(&checks), expected);
    }
}
