//! The log of requests: each at debug, those that are rejected or fail at info. In a flood of those
//! only the first of each second are logged, then one line with the number of the others.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::response::Response;
use filepull_core::problem::Code;
use filepull_process::Lifecycle;
use tokio::time::sleep;
use tracing::{debug, info};

use super::request::caller::Caller;
use super::request::rejection::Rejection;

/// How many rejected requests are logged in one second. A person sees each rejected request; a
/// flood adds a few KiB a second to the log.
const MAX_PER_SECOND: u32 = 20;

const SECOND: Duration = Duration::from_secs(1);

/// Logs requests.
#[derive(Clone, Debug)]
pub(crate) struct RequestLog {
    lifecycle: Lifecycle,
    sample: Arc<Mutex<RequestSample>>,
}

/// The logged fields of a request. Never the URL, which may hold anything.
#[derive(Debug)]
pub(crate) struct RequestLogEntry {
    method: Method,
    route: Option<MatchedPath>,
    started: Instant,
}

impl RequestLogEntry {
    /// The entry of a request that arrives now.
    pub(crate) fn of(request: &Request) -> Self {
        let route = request.extensions().get::<MatchedPath>().cloned();
        Self { method: request.method().clone(), route, started: Instant::now() }
    }
}

impl RequestLog {
    /// A log whose tasks belong to `lifecycle`.
    pub(crate) fn new(lifecycle: Lifecycle) -> Self {
        Self { lifecycle, sample: Arc::new(Mutex::new(RequestSample::new(Instant::now()))) }
    }

    /// Logs a request with its response.
    pub(crate) fn log(&self, entry: &RequestLogEntry, caller: &Caller, response: &Response) {
        let RequestLogEntry { method, route, started } = entry;
        let route = route.as_ref().map_or("none", MatchedPath::as_str);
        let (status, request_id) = (response.status().as_u16(), caller.request_id);
        let (duration_seconds, requested_by) = (started.elapsed().as_secs_f64(), caller.name());
        if status < 400 {
            debug!(
                event = "http.request", %method, route, status, duration_seconds, requested_by,
                %request_id, "request answered"
            );
            return;
        }
        let code = response.extensions().get::<Rejection>().map(Rejection::code).map(Code::as_str);
        match self.admit() {
            SampleDecision::Logged => info!(
                event = "http.request", %method, route, status, code, duration_seconds,
                requested_by, %request_id, "request rejected"
            ),
            SampleDecision::FirstOmitted => self.lifecycle.spawn(self.clone().sum_up()),
            SampleDecision::Omitted => {}
        }
    }

    fn admit(&self) -> SampleDecision {
        self.sample.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now())
    }

    /// Logs how many requests were left out. Ends after a second, or when the server stops.
    async fn sum_up(self) {
        let _ = self.lifecycle.stop().run_until_cancelled(sleep(SECOND)).await;
        let n_omitted = self.sample.lock().unwrap_or_else(PoisonError::into_inner).take_omitted();
        info!(
            event = "http.requests_omitted",
            count = n_omitted,
            "more requests were rejected than are logged"
        );
    }
}

/// Whether a rejected request is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SampleDecision {
    Logged,
    /// Not logged, and the first one since the last summary.
    FirstOmitted,
    Omitted,
}

/// Counts the rejected requests of a second.
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
    fn a_flood_is_logged_up_to_a_bound_and_counted() {
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
