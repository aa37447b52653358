//! What a trigger is told: a status and words, made from nothing but what is known by then.

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

/// Everything that the answer depends on.
#[derive(Debug)]
pub(crate) struct AnswerContext<'a> {
    /// The transfer, by the time it is told.
    pub(crate) view: &'a View,
    /// It was under way before.
    pub(crate) joined: bool,
    /// How the wait for its end ended, if the caller asked for one.
    pub(crate) waited: Option<WaitResult>,
    /// Its place in line, if it stands there.
    pub(crate) place: Option<usize>,
    /// How many transfers run.
    pub(crate) n_running: usize,
    /// The data folder as it was given.
    pub(crate) data_dir: &'a str,
    /// The name under which the caller reaches this server.
    pub(crate) host: &'a str,
    /// The time.
    pub(crate) now: DateTime<Utc>,
}

/// A wait for the end of a transfer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitResult {
    /// How long it took.
    pub(crate) time: Duration,
    /// Why it ended.
    pub(crate) end: WaitEnd,
}

/// Returns the status and the text. A transfer that has ended without a file is returned as its
/// problem. A caller that waits for the file and does not get it receives a status that makes `curl
/// -f` fail; the transfer continues.
pub(crate) fn answer(told: &AnswerContext<'_>) -> Result<(StatusCode, String), Problem> {
    match &told.view.transfer.phase {
        Phase::Done(published) => {
            Ok((StatusCode::OK, text::done(told.view, published.download(), told.data_dir)))
        }
        Phase::Failed(ended) | Phase::Cancelled(ended) => Err(ended.problem.clone()),
        Phase::Queued | Phase::Receiving(_) | Phase::Sealed(_) => {
            let (status, sentence) = match (told.waited, told.joined) {
                (Some(WaitResult { end: WaitEnd::Stopping, .. }), _) => {
                    let sentence = "The server is restarting; the transfer goes on afterwards.";
                    (StatusCode::SERVICE_UNAVAILABLE, sentence.to_owned())
                }
                (Some(WaitResult { time, end: WaitEnd::TimeUp | WaitEnd::Reached }), _) => {
                    (StatusCode::GATEWAY_TIMEOUT, time_is_up(told, time))
                }
                (None, true) => (StatusCode::ACCEPTED, joined(told)),
                (None, false) => (StatusCode::ACCEPTED, started(told)),
            };
            Ok((status, format!("{sentence}\n{}", next_steps(told))))
        }
    }
}

fn started(told: &AnswerContext<'_>) -> String {
    let (view, id) = (told.view, told.view.transfer.id);
    let sentence = match view.stage {
        Activity::Running => format!("Started: {}.", text::sending(view)),
        Activity::Waiting(WaitingFor::Turn) => {
            let running = text::count(told.n_running, "transfer is", "transfers are");
            let place = text::waits(view, WaitingFor::Turn, told.place);
            format!("Waiting: {running} running; {place}.")
        }
        Activity::Waiting(waiting_for @ (WaitingFor::OtherFile | WaitingFor::Disk)) => {
            format!("Waiting: {}.", text::waits(view, waiting_for, told.place))
        }
        Activity::Waiting(waiting_for @ WaitingFor::Client) if view.reason.is_some() => {
            format!("Waiting: {}.", text::waits(view, waiting_for, told.place))
        }
        Activity::Waiting(waiting_for @ WaitingFor::Client) => {
            format!("Queued: {}.", text::waits(view, waiting_for, told.place))
        }
        Activity::Recording | Activity::Starting | Activity::Asked => {
            format!("Asked {}, no answer yet.", view.transfer.client)
        }
    };
    format!("{sentence} Transfer {id}")
}

fn joined(told: &AnswerContext<'_>) -> String {
    let view = told.view;
    let client = &view.transfer.client;
    let sentence = match view.stage {
        Activity::Running => format!("Already running: {}", running_since(told)),
        Activity::Waiting(waiting_for) => {
            format!("Already waiting: {}", text::waits(view, waiting_for, told.place))
        }
        Activity::Recording | Activity::Starting | Activity::Asked => {
            format!("Already asked: {client} has not answered yet")
        }
    };
    format!("{sentence}. Nothing new was started.")
}

/// `client4 is sending menu.txt since 14:23:05 (42 %, about 12 s left)`
fn running_since(told: &AnswerContext<'_>) -> String {
    let view = told.view;
    let since = view.transfer.started_at.unwrap_or(view.transfer.created_at);
    let today = since.date_naive() == told.now.date_naive();
    let since = since.format(if today { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" });
    let name =
        view.source.as_ref().map_or("the file".to_owned(), |source| text::name(&source.name));
    let progress = text::progress(view).map(|progress| format!(" ({progress})"));
    let client = &view.transfer.client;
    format!("{client} is sending {name} since {since}{}", progress.unwrap_or_default())
}

fn time_is_up(told: &AnswerContext<'_>, waited: Duration) -> String {
    let (view, waited) = (told.view, human::span(waited));
    let client = &view.transfer.client;
    match view.stage {
        Activity::Running => {
            let progress = text::progress(view).unwrap_or_else(|| text::sending(view));
            format!("Still running after {waited}: {progress}. The transfer goes on.")
        }
        Activity::Waiting(waiting_for) => {
            let waits = text::waits(view, waiting_for, told.place);
            format!("Still waiting after {waited}: {waits}.")
        }
        Activity::Recording | Activity::Starting | Activity::Asked => {
            format!("Still no answer after {waited}: {client} has been asked to send the file.")
        }
    }
}

fn next_steps(told: &AnswerContext<'_>) -> String {
    let AnswerContext { host, view, .. } = told;
    let (id, client) = (view.transfer.id, &view.transfer.client);
    // The newest file of a client may be any that it shares; who asks for one by its path wants it.
    let whose = match &view.transfer.path {
        None => format!("clients/{client}"),
        Some(_) => format!("transfers/{id}"),
    };
    format!(
        "  wait   curl \"{host}/transfers/{id}?wait\"\n  \
           stop   curl -X POST {host}/transfers/{id}/cancel\n  \
           file   curl -OJ {host}/{whose}/file\n"
    )
}
