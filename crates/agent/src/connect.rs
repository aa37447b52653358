//! Dials, and dials again, for as long as the process lives. Nothing the network or the server
//! does ends it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use filepull_core::backoff::{Backoff, RetryCause};
use filepull_core::source::Source;
use filepull_core::{PROTOCOL, human};
use filepull_process::Lifecycle;
use filepull_proto::v1::{self, ErrorCode};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::config::{self, Config};
use crate::dial::Dialer;
use crate::outage::{Cause, Outage, OutageLog};
use crate::session::{SessionEvent, SessionOutcome, SessionTask};
use crate::share::{DefaultFileError, Shares};
use crate::status_log::StatusLog;
use crate::upload::UploadContext;
use crate::upload_connections::UploadConnections;
use crate::uploads::Uploads;

/// Minimum wait of an agent that is rejected as a clone of another machine, if the server names no
/// time.
const CLONE_RETRY: Duration = Duration::from_secs(15);

/// How long a hello waits for the disk to say how large the default file is.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// Keeps one line alive.
#[derive(Debug)]
pub(crate) struct Supervisor {
    config: Config,
    dialler: Dialer,
    shares: Arc<Shares>,
    lifecycle: Lifecycle,
    journal: StatusLog,
    uploads: Uploads,
    /// Tells this start of the agent from others, and from clones of the machine.
    instance: Uuid,
    connects: u64,
    backoff: Backoff,
    outage: Outage,
    past: SessionEnd,
}

/// What was before the next line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionEnd {
    /// Nothing: the agent has just started.
    None,
    /// A line.
    Line,
    /// A line that is still there; the server wants another one in its place.
    Drained,
}

/// How a line came to need a successor.
#[derive(Debug)]
enum Redial {
    Drained { min: Duration, max: Duration },
    Ended { end: SessionOutcome, lived: Option<Duration> },
}

impl Supervisor {
    pub(crate) fn new(config: Config, lifecycle: Lifecycle, journal: StatusLog) -> Self {
        let shares = Arc::new(config.shares.clone());
        let dialler = Dialer { server: config.server.clone(), source_addr: config.source_addr };
        let data = UploadConnections::new(dialler.clone(), config.data_conn, lifecycle.clone());
        let context = UploadContext {
            client: config.client.clone(),
            shares: Arc::clone(&shares),
            max_rate: config.max_rate,
            consistency: config.consistency,
            data,
            journal: journal.clone(),
        };
        Self {
            config,
            dialler,
            shares,
            uploads: Uploads::new(context, lifecycle.clone()),
            lifecycle,
            journal,
            instance: Uuid::new_v4(),
            connects: 0,
            backoff: Backoff::default(),
            outage: Outage::default(),
            past: SessionEnd::None,
        }
    }

    /// Never returns: the caller drops it to stop.
    pub(crate) async fn run(mut self) {
        self.survey();
        loop {
            let need = self.line().await;
            let wait = self.backoff.next(as_ended(&need), fastrand::f64());
            self.tell(&need, wait);
            sleep(wait).await;
        }
    }

    /// Logs warnings about `SHARE`. The task ends when its bounded walk through the folders is
    /// done, or when the process drains.
    fn survey(&self) {
        if self.shares.shares().nth(1).is_none() {
            return;
        }
        let (shares, journal) = (Arc::clone(&self.shares), self.journal.clone());
        let drain = self.lifecycle.drain().clone();
        self.lifecycle.spawn(async move {
            let surveyed = drain.run_until_cancelled(spawn_blocking(move || shares.survey())).await;
            for odd in surveyed.and_then(Result::ok).unwrap_or_default() {
                journal.warn(&odd);
            }
        });
    }

    /// Opens a line; resolves when another one is needed.
    async fn line(&mut self) -> Redial {
        let dialled = Instant::now();
        let (news_sender, mut news) = mpsc::channel(4);
        let session = SessionTask {
            dialler: self.dialler.clone(),
            hello: self.hello().await,
            uploads: self.uploads.clone(),
            lifecycle: self.lifecycle.clone(),
            journal: self.journal.clone(),
            news: news_sender,
        };
        self.connects += 1;
        self.lifecycle.spawn(session.run());
        let mut up_since = None;
        loop {
            match news.recv().await {
                Some(SessionEvent::Up(policy)) => {
                    self.backoff.follow(policy);
                    self.connected(dialled.elapsed());
                    up_since = Some(Instant::now());
                }
                Some(SessionEvent::Drain { min, max }) => return Redial::Drained { min, max },
                Some(SessionEvent::Over(end)) => {
                    return Redial::Ended { end, lived: up_since.map(|since| since.elapsed()) };
                }
                None => {
                    let end = SessionOutcome::Lost("a mistake of the agent".to_owned());
                    return Redial::Ended { end, lived: None };
                }
            }
        }
    }

    /// The default file as it looks now. Whoever set a wrong path reads the log now, or never.
    async fn look(&self) -> Result<Source, DefaultFileError> {
        let (shares, client) = (Arc::clone(&self.shares), self.config.client.clone());
        let look = spawn_blocking(move || {
            shares.remember();
            shares.default_file(&client)
        });
        let look = timeout(LOOK_LIMIT, look);
        let looked = match look.await {
            Ok(Ok(looked)) => looked,
            Ok(Err(_)) | Err(_) => Err(self.shares.timed_out(&self.config.client)),
        };
        let problem = looked.as_ref().err().map(|why| why.local_text.as_str());
        let news = self.journal.looked(problem);
        if let Some(problem) = problem.filter(|_| news) {
            self.journal.warn(problem);
        }
        looked
    }

    async fn hello(&self) -> v1::Hello {
        let looked = self.look().await;
        v1::Hello {
            client_id: self.config.client.to_string(),
            instance_id: self.instance.as_bytes().to_vec().into(),
            connects: self.connects,
            protocol_min: *PROTOCOL.start(),
            protocol_max: *PROTOCOL.end(),
            capabilities: vec!["resume".to_owned(), "drain".to_owned()],
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            hostname: config::host_name(),
            active_transfers: self.uploads.active().iter().map(ToString::to_string).collect(),
            shares: self.shares.shares().map(str::to_owned).collect(),
            default_file_error: looked.as_ref().err().map(|why| (&why.problem).into()),
            default_file: looked.ok().map(|file| v1::DefaultFile {
                name: file.name,
                size: file.size,
                modified_unix_ns: file.modified_ns,
            }),
        }
    }

    fn connected(&mut self, took: Duration) {
        let took = human::took(took);
        let away = self.outage.over(Instant::now()).map(human::span);
        let text = match (self.past, away) {
            (SessionEnd::None, Some(away)) => format!("connected after {away}; waiting for pulls"),
            (SessionEnd::Line | SessionEnd::Drained, Some(away)) => {
                format!("connected again after {away}")
            }
            (SessionEnd::Drained, None) => format!("connected anew in {took}, as the server asked"),
            (SessionEnd::None | SessionEnd::Line, None) => {
                format!("connected in {took}; waiting for pulls")
            }
        };
        self.past = SessionEnd::Line;
        self.journal.info(&text);
    }

    fn tell(&mut self, need: &Redial, wait: Duration) {
        let (end, was_up) = match need {
            Redial::Drained { .. } => {
                self.past = SessionEnd::Drained;
                return;
            }
            Redial::Ended { end, lived } => (end, lived.is_some()),
        };
        let (why, cause) = match end {
            SessionOutcome::Lost(why) => (why.as_str(), Cause::Lost),
            SessionOutcome::Slept => ("this machine was asleep", Cause::Lost),
            SessionOutcome::Left => return,
            SessionOutcome::Told { why, code, .. } if needs_a_person(*code) => {
                (why.as_str(), Cause::Refused)
            }
            SessionOutcome::Told { why, .. } => (why.as_str(), Cause::Lost),
        };
        // Rounded up: "in 0 s" would look like a mistake.
        let next = human::span(wait + Duration::from_millis(999));
        match (self.outage.failed(cause, Instant::now()), cause) {
            (None, _) => tracing::debug!(why, next, "still not connected"),
            (Some(OutageLog::Lasts(time)), _) => {
                let time = human::span(time);
                let text = format!("still not connected after {time}: {why}; next try in {next}");
                self.journal.warn(&text);
            }
            (Some(OutageLog::Begins), Cause::Refused) => {
                let text =
                    format!("the server refuses this machine: {why}; trying again in {next}");
                self.journal.error(&text);
            }
            (Some(OutageLog::Begins), Cause::Lost) => {
                let what = if was_up { "connection lost" } else { "cannot connect" };
                self.journal.warn(&format!("{what}: {why}; trying again in {next}"));
            }
        }
    }
}

fn as_ended(need: &Redial) -> RetryCause {
    match *need {
        Redial::Drained { min, max } => RetryCause::Drained { min, max },
        // At once: whoever woke the machine may be waiting.
        Redial::Ended { end: SessionOutcome::Slept, .. } => {
            RetryCause::Drained { min: Duration::ZERO, max: Duration::ZERO }
        }
        Redial::Ended { end: SessionOutcome::Told { retry_after, .. }, .. }
            if !retry_after.is_zero() =>
        {
            RetryCause::Refused { retry_after }
        }
        Redial::Ended {
            end: SessionOutcome::Told { code: ErrorCode::DuplicateId, .. }, ..
        } => RetryCause::Refused { retry_after: CLONE_RETRY },
        Redial::Ended {
            end: SessionOutcome::Told { .. } | SessionOutcome::Lost(_) | SessionOutcome::Left,
            lived,
        } => RetryCause::Lost { lived: lived.unwrap_or_default() },
    }
}

/// Trying again does not help until somebody changes a setting here or there.
fn needs_a_person(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::DuplicateId
            | ErrorCode::Unauthenticated
            | ErrorCode::Forbidden
            | ErrorCode::Unsupported
            | ErrorCode::Protocol
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: ErrorCode, retry_after_s: u64, expected: RetryCause) {
        let retry_after = Duration::from_secs(retry_after_s);
        let end = SessionOutcome::Told { code, why: String::new(), retry_after };
        assert_eq!(as_ended(&Redial::Ended { end, lived: None }), expected);
    }

    #[test]
    fn a_server_that_refuses_says_when_to_come_back() {
        let refused = |seconds| RetryCause::Refused { retry_after: Duration::from_secs(seconds) };
        check(ErrorCode::Overloaded, 7, refused(7));
        check(ErrorCode::DuplicateId, 0, refused(15));
        check(ErrorCode::Draining, 0, RetryCause::Lost { lived: Duration::ZERO });
    }
}
