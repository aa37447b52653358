//! Logs every request: at debug if it succeeds, at info if it is rejected or fails. In a flood only
//! the first such requests of each second are logged, then one event with the number of the others.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use filepull_process::Lifecycle;
use tokio::time::sleep;
use tracing::{debug, info};

use super::request::caller::Caller;
use super::request::rejection::Rejection;

/// Maximum number of rejected or failed requests that are logged in one second. A person sees each
/// of their own; a flood adds a few KiB per second to the log.
const MAX_PER_SECOND: u32 = 20;

const SECOND: Duration = Duration::from_secs(1);

/// Writes the log events of requests, and bounds their number. Clones share the bound.
#[derive(Clone, Debug)]
pub(crate) struct RequestLog {
    lifecycle: Lifecycle,
    sample: Arc<Mutex<RequestSample>>,
}

/// The fields of a request that are logged. The URL is not one of them: it may hold any text.
#[derive(Clone, Debug)]
pub(crate) struct RequestLogEntry {
    method: Method,
    route: Option<MatchedPath>,
    started: Instant,
}

impl RequestLogEntry {
    /// Returns the entry of a request that arrives now.
    pub(crate) fn of(request: &Request) -> Self {
        let route = request.extensions().get::<MatchedPath>().cloned();
        Self { method: request.method().clone(), route, started: Instant::now() }
    }

    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    /// Returns the route with its parameters as names, such as `/trigger/{id}`.
    pub(crate) fn route(&self) -> &str {
        self.route.as_ref().map_or("none", MatchedPath::as_str)
    }
}

impl RequestLog {
    /// Returns a log whose tasks are tracked by `lifecycle`.
    pub(crate) fn new(lifecycle: Lifecycle) -> Self {
        Self { lifecycle, sample: Arc::new(Mutex::new(RequestSample::new(Instant::now()))) }
    }

    /// Logs a request with its response, inside the span of the request.
    pub(crate) fn log(&self, entry: &RequestLogEntry, caller: &Caller, response: &Response) {
        let status = response.status();
        if !status.is_client_error() && !status.is_server_error() {
            log_answered(entry, caller, status);
            return;
        }
        match self.admit() {
            SampleDecision::Logged => log_rejected(entry, caller, response),
            SampleDecision::FirstOmitted => self.lifecycle.spawn(self.clone().log_omitted()),
            SampleDecision::Omitted => {}
        }
    }

    fn admit(&self) -> SampleDecision {
        self.sample.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now())
    }

    /// Logs the number of omitted requests, once. Ends after a second, or when the server stops.
    async fn log_omitted(self) {
        let _ = self.lifecycle.stop().run_until_cancelled(sleep(SECOND)).await;
        let n_omitted = self.sample.lock().unwrap_or_else(PoisonError::into_inner).take_omitted();
        info!(
            event = "http.requests_omitted",
            count = n_omitted,
            "more requests were rejected than are logged"
        );
    }
}

fn log_answered(entry: &RequestLogEntry, caller: &Caller, status: StatusCode) {
    let method = &entry.method;
    let route = entry.route();
    let status = status.as_u16();
    let duration_seconds = entry.started.elapsed().as_secs_f64();
    let requested_by = caller.name();
    debug!(
        event = "http.request", %method, route, status, duration_seconds, requested_by,
        "request answered"
    );
}

/// Logs a response with an error status: below 500 the request was rejected, above it the server or
/// a client failed.
fn log_rejected(entry: &RequestLogEntry, caller: &Caller, response: &Response) {
    let method = &entry.method;
    let route = entry.route();
    let status = response.status().as_u16();
    let code =
        response.extensions().get::<Rejection>().map(|rejection| rejection.problem.code.as_str());
    let duration_seconds = entry.started.elapsed().as_secs_f64();
    let requested_by = caller.name();
    if status < 500 {
        info!(
            event = "http.request_rejected", %method, route, status, code, duration_seconds,
            requested_by, "request rejected"
        );
    } else {
        info!(
            event = "http.request_failed", %method, route, status, code, duration_seconds,
            requested_by, "request failed"
        );
    }
}

/// Whether a rejected request is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SampleDecision {
    Logged,
    /// Not logged, and the first one since the number was last logged.
    FirstOmitted,
    Omitted,
}

/// Counts the rejected requests of the current second.
#[derive(Debug)]
struct RequestSample {
    since: Instant,
    n_logged: u32,
    n_omitted: u64,
}

impl RequestSample {
    fn new(now: Instant) -> Self {
        Self { since: now, n_logged: 0, n_omitted: 0 }
    }

    fn admit(&mut self, now: Instant) -> SampleDecision {
        if SECOND <= now.duration_since(self.since) {
            self.since = now;
            self.n_logged = 0;
        }
        if self.n_logged < MAX_PER_SECOND {
            self.n_logged += 1;
            return SampleDecision::Logged;
        }
        self.n_omitted += 1;
        if self.n_omitted == 1 { SampleDecision::FirstOmitted } else { SampleDecision::Omitted }
    }

    fn take_omitted(&mut self) -> u64 {
        std::mem::take(&mut self.n_omitted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_logged_up_to_a_bound_and_the_rest_is_counted() {
        let start = Instant::now();
        let mut sample = RequestSample::new(start);
        let admitted: Vec<SampleDecision> = (0..1000).map(|_| sample.admit(start)).collect();
        let count = |wanted| admitted.iter().filter(|found| **found == wanted).count();
        assert_eq!(count(SampleDecision::Logged), 20);
        assert_eq!(count(SampleDecision::FirstOmitted), 1);
        assert_eq!(count(SampleDecision::Omitted), 979);
        assert_eq!(sample.take_omitted(), 980);
        assert_eq!(sample.admit(start), SampleDecision::FirstOmitted);
        assert_eq!(sample.admit(start + SECOND), SampleDecision::Logged);
    }
}
