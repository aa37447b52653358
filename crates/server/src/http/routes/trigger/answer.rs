//! Decides the status and the text of the response to a trigger. Pure: the input is a value.

use std::time::Duration;

use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use filepull_core::human;
use filepull_core::problem::Problem;
use filepull_core::transfer::Phase;

use crate::http::response::text;
use crate::http::routes::wait::WaitEnd;
use crate::transfers::{Activity, View, WaitingFor};

#[cfg(test)]
mod tests;

/// The input of the answer.
#[derive(Debug)]
pub(crate) struct AnswerContext<'a> {
    pub(crate) view: &'a View,
    /// Whether the pull joined a transfer that was unfinished already.
    pub(crate) joined: bool,
    /// `None` if the request had no `wait`.
    pub(crate) waited: Option<WaitResult>,
    /// The position among the transfers that wait for a permit, starting at 1.
    pub(crate) place: Option<usize>,
    pub(crate) n_running: usize,
    /// `DATA_DIR` as the operator wrote it.
    pub(crate) data_dir: &'a str,
    /// The host that the caller used, for commands.
    pub(crate) host: &'a str,
    pub(crate) now: DateTime<Utc>,
}

/// How the wait of a request ended, and after which time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitResult {
    pub(crate) time: Duration,
    pub(crate) end: WaitEnd,
}

/// Returns the status and the text, or the problem of a transfer that ended without a file. If a wait
/// ends before the file is there, the status is an error, so that `curl -f` fails; the transfer
/// continues.
pub(crate) fn answer(context: &AnswerContext<'_>) -> Result<(StatusCode, String), Problem> {
    match &context.view.transfer.phase {
        Phase::Done(published) => {
            Ok((StatusCode::OK, text::done(context.view, published.download(), context.data_dir)))
        }
        Phase::Unchanged(unchanged) => {
            Ok((StatusCode::OK, text::unchanged(context.view, unchanged, context.data_dir)))
        }
        Phase::Failed(failure) | Phase::Cancelled(failure) => Err(failure.problem.clone()),
        Phase::Queued | Phase::Receiving(_) | Phase::Sealed(_) => {
            let (status, sentence) = match (context.waited, context.joined) {
                (Some(WaitResult { end: WaitEnd::Draining, .. }), _) => {
                    let sentence = "The server is restarting; the transfer continues afterwards.";
                    (StatusCode::SERVICE_UNAVAILABLE, sentence.to_owned())
                }
                (Some(WaitResult { time, end: WaitEnd::TimedOut | WaitEnd::Reached }), _) => {
                    (StatusCode::GATEWAY_TIMEOUT, wait_timed_out(context, time))
                }
                (None, true) => (StatusCode::ACCEPTED, joined(context)),
                (None, false) => (StatusCode::ACCEPTED, started(context)),
            };
            Ok((status, format!("{sentence}\n{}", next_steps(context))))
        }
    }
}

fn started(context: &AnswerContext<'_>) -> String {
    let view = context.view;
    let id = view.transfer.id;
    let sentence = match view.activity {
        Activity::Running => format!("Started: {}.", text::sending(view)),
        Activity::Waiting(WaitingFor::Permit) => {
            let running = text::count(context.n_running, "transfer is", "transfers are");
            let place = text::waits(view, WaitingFor::Permit, context.place);
            format!("Waiting: {running} running; {place}.")
        }
        Activity::Waiting(WaitingFor::Client) if view.reason.is_none() => {
            format!("Queued: {}.", text::waits(view, WaitingFor::Client, context.place))
        }
        Activity::Waiting(waiting_for) => {
            format!("Waiting: {}.", text::waits(view, waiting_for, context.place))
        }
        Activity::Recording | Activity::Starting | Activity::Ordered => {
            format!("Asked {}, no answer yet.", view.transfer.client)
        }
    };
    format!("{sentence} Transfer {id}")
}

fn joined(context: &AnswerContext<'_>) -> String {
    let view = context.view;
    let client = &view.transfer.client;
    let sentence = match view.activity {
        Activity::Running => format!("Already running: {}", running_since(context)),
        Activity::Waiting(waiting_for) => {
            format!("Already waiting: {}", text::waits(view, waiting_for, context.place))
        }
        Activity::Recording | Activity::Starting | Activity::Ordered => {
            format!("Already asked: {client} has not answered yet")
        }
    };
    format!("{sentence}. Nothing new was started.")
}

/// `client4 is sending menu.txt since 14:23:05 (42 %, about 12 s left)`
fn running_since(context: &AnswerContext<'_>) -> String {
    let view = context.view;
    let since = view.transfer.started_at.unwrap_or(view.transfer.created_at);
    let is_today = since.date_naive() == context.now.date_naive();
    let time = since.format(if is_today { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" });
    let name =
        view.source.as_ref().map_or("the file".to_owned(), |source| text::name(&source.name));
    let progress = text::progress(view).map(|progress| format!(" ({progress})"));
    let client = &view.transfer.client;
    format!("{client} is sending {name} since {time}{}", progress.unwrap_or_default())
}

fn wait_timed_out(context: &AnswerContext<'_>, waited: Duration) -> String {
    let view = context.view;
    let time = human::span(waited);
    let client = &view.transfer.client;
    match view.activity {
        Activity::Running => {
            let progress = text::progress(view).unwrap_or_else(|| text::sending(view));
            format!("Still running after {time}: {progress}. The transfer continues.")
        }
        Activity::Waiting(waiting_for) => {
            let waits = text::waits(view, waiting_for, context.place);
            format!("Still waiting after {time}: {waits}.")
        }
        Activity::Recording | Activity::Starting | Activity::Ordered => {
            format!("Still no answer after {time}: {client} has been asked to send the file.")
        }
    }
}

fn next_steps(context: &AnswerContext<'_>) -> String {
    let AnswerContext { host, view, .. } = context;
    let id = view.transfer.id;
    let client = &view.transfer.client;
    // The newest file of a client may have another path than this transfer.
    let owner = match &view.transfer.path {
        None => format!("clients/{client}"),
        Some(_) => format!("transfers/{id}"),
    };
    format!(
        "  wait   curl \"{host}/transfers/{id}?wait\"\n  \
           stop   curl -X POST {host}/transfers/{id}/cancel\n  \
           file   curl -OJ {host}/{owner}/file\n"
    )
}
