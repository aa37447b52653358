//! Keeps one session open: dials, and dials again, until the process stops. No failure of the
//! network or the server ends it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use filepull_core::backoff::Backoff;
use filepull_core::extent::ExtentKinds;
use filepull_core::invite::Invite;
use filepull_core::source::Source;
use filepull_core::{PROTOCOL, human};
use filepull_process::Lifecycle;
use filepull_proto::v1;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::{Instrument as _, error_span, field};
use uuid::Uuid;

use crate::config::{self, Config};
use crate::cpu_limit::CpuLimit;
use crate::credentials::Credentials;
use crate::diagnosis::{Diagnosis, DiagnosisCode};
use crate::enrol::{EnrolOutcome, enrol};
use crate::outage::{Outage, OutageCause, OutageMessage};
use crate::redial::{Redial, lost_cause, retry_cause};
use crate::server_rejection::needs_a_person;
use crate::session::{SessionEvent, SessionOutcome, SessionTask};
use crate::share::{DefaultFileError, Shares};
use crate::status_log::StatusLog;
use crate::transfer_log::TransferLog;
use crate::upload::UploadContext;
use crate::upload_connections::UploadConnections;
use crate::uploads::Uploads;

/// How long a hello waits for the disk to return the size of the default file.
const DEFAULT_FILE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Supervisor {
    config: Config,
    credentials: Credentials,
    shares: Arc<Shares>,
    lifecycle: Lifecycle,
    status_log: StatusLog,
    uploads: Uploads,
    /// Identifies this process: the server detects restarts and machines with the same id by it.
    instance: Uuid,
    connects: u64,
    backoff: Backoff,
    outage: Outage,
    previous: PreviousSession,
}

/// What happened before the next session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PreviousSession {
    /// The agent has just started.
    None,
    Ended,
    /// The session is still open, and the server has requested a new one.
    Drained,
}

impl Supervisor {
    pub(crate) fn new(
        config: Config,
        credentials: Credentials,
        lifecycle: Lifecycle,
        status_log: StatusLog,
        transfer_log: TransferLog,
    ) -> Self {
        let shares = Arc::new(config.shares.clone());
        let connections =
            UploadConnections::new(credentials.clone(), config.data_conn, lifecycle.clone());
        let context = UploadContext {
            client: config.client.clone(),
            shares: Arc::clone(&shares),
            max_rate: config.max_rate,
            cpu_limit: config.max_cpu.map(CpuLimit::new),
            consistency: config.consistency,
            connections,
            status_log: status_log.clone(),
            transfer_log,
        };
        Self {
            config,
            credentials,
            shares,
            uploads: Uploads::new(context, lifecycle.clone()),
            lifecycle,
            status_log,
            instance: Uuid::new_v4(),
            connects: 0,
            backoff: Backoff::default(),
            outage: Outage::default(),
            previous: PreviousSession::None,
        }
    }

    /// Enrols with the invite, if there is one, then keeps a session open. Never returns: the caller
    /// drops the future to stop it.
    pub(crate) async fn run(mut self, invite: Option<Invite>) {
        self.spawn_survey();
        if let Some(invite) = invite {
            self.enrol(&invite).await;
            // The secret is not needed any more, and nothing else keeps it.
            self.config.invite = None;
        }
        loop {
            let redial = self.run_session().await;
            self.wait_after(&redial).await;
        }
    }

    /// Tries until the server has recorded the key of this machine. A machine that is enrolled already
    /// stays what it was if the server rejects its new invite.
    async fn enrol(&mut self, invite: &Invite) {
        loop {
            let client = self.config.client.clone();
            let outcome = match enrol(&self.credentials, invite, &client).await {
                Ok(standing) => return self.log_enrolled(standing),
                Err(outcome) => outcome,
            };
            if self.keeps_identity(&outcome) {
                return;
            }
            self.wait_after(&Redial::Ended { outcome, uptime: None }).await;
        }
    }

    fn keeps_identity(&self, outcome: &SessionOutcome) -> bool {
        let SessionOutcome::EndedByServer { failure, code, .. } = outcome else { return false };
        if !needs_a_person(*code) {
            return false;
        }
        match self.credentials.return_to_identity() {
            Ok(is_enrolled) => {
                if is_enrolled {
                    let reason = &failure.text;
                    let text = format!("INVITE is ignored, this machine stays enrolled: {reason}");
                    self.status_log.warn(&text);
                }
                is_enrolled
            }
            Err(error) => {
                self.status_log.error(&error.to_string());
                false
            }
        }
    }

    fn log_enrolled(&mut self, standing: EnrolOutcome) {
        let client = &self.config.client;
        let key = self.credentials.fingerprint().map(|key| key.to_string()).unwrap_or_default();
        let pending = match standing {
            EnrolOutcome::Active => "INVITE is no longer needed".to_owned(),
            EnrolOutcome::Pending => {
                format!("it waits for `filepull approve {client}` on the server")
            }
        };
        self.status_log.info(&format!("enrolled as {client} with key {key}; {pending}"));
        self.outage.end(Instant::now());
    }

    async fn wait_after(&mut self, redial: &Redial) {
        let wait = self.backoff.next(retry_cause(redial), fastrand::f64());
        self.log_redial(redial, wait);
        sleep(wait).await;
    }

    /// Logs warnings about `SHARE`. The task ends when its bounded walk through the folders is
    /// done, or when the process drains.
    fn spawn_survey(&self) {
        if self.shares.shares().nth(1).is_none() {
            return;
        }
        let shares = Arc::clone(&self.shares);
        let status_log = self.status_log.clone();
        let drain = self.lifecycle.drain().clone();
        self.lifecycle.spawn(async move {
            let surveyed = drain.run_until_cancelled(spawn_blocking(move || shares.survey())).await;
            for warning in surveyed.and_then(Result::ok).unwrap_or_default() {
                status_log.warn(&warning);
            }
        });
    }

    /// Starts a session. Returns when another session is needed; the first one may still be open.
    async fn run_session(&mut self) -> Redial {
        let dialed_at = Instant::now();
        let (events, mut received) = mpsc::channel(4);
        let session = SessionTask {
            credentials: self.credentials.clone(),
            hello: self.hello().await,
            uploads: self.uploads.clone(),
            lifecycle: self.lifecycle.clone(),
            status_log: self.status_log.clone(),
            events,
        };
        self.connects += 1;
        let span = error_span!("session", id = field::Empty, client = %self.config.client);
        self.lifecycle.spawn(session.run().instrument(span));
        let mut connected_at = None;
        loop {
            match received.recv().await {
                Some(SessionEvent::Connected(policy)) => {
                    self.backoff.follow(policy);
                    self.log_connected(dialed_at.elapsed());
                    connected_at = Some(Instant::now());
                }
                Some(SessionEvent::Drain { min, max }) => return Redial::Drained { min, max },
                Some(SessionEvent::Ended(outcome)) => {
                    let uptime = connected_at.map(|at| at.elapsed());
                    return Redial::Ended { outcome, uptime };
                }
                None => {
                    let text = "internal error in the agent (session task panicked)";
                    let outcome = SessionOutcome::Lost(Diagnosis::new(DiagnosisCode::Other, text));
                    return Redial::Ended { outcome, uptime: None };
                }
            }
        }
    }

    /// Returns the current metadata of the default file. Logs each new reason why it cannot be
    /// sent: a person who has just set a wrong path reads the log now.
    async fn check_default_file(&self) -> Result<Source, DefaultFileError> {
        let shares = Arc::clone(&self.shares);
        let client = self.config.client.clone();
        let checking = spawn_blocking(move || {
            shares.remember();
            shares.default_file(&client)
        });
        let result = match timeout(DEFAULT_FILE_TIMEOUT, checking).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(self.shares.timed_out(&self.config.client)),
        };
        let problem = result.as_ref().err().map(|error| error.local_text.as_str());
        let is_new = self.status_log.set_file_problem(problem);
        if let Some(problem) = problem.filter(|_| is_new) {
            self.status_log.warn(problem);
        }
        result
    }

    async fn hello(&self) -> v1::Hello {
        let default_file = self.check_default_file().await;
        v1::Hello {
            client_id: self.config.client.to_string(),
            instance_id: self.instance.as_bytes().to_vec().into(),
            connects: self.connects,
            protocol_min: *PROTOCOL.start(),
            protocol_max: *PROTOCOL.end(),
            capabilities: ["resume", "drain"]
                .into_iter()
                .chain(ExtentKinds::ALL.capabilities())
                .map(str::to_owned)
                .collect(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            hostname: config::host_name(),
            active_transfers: self.uploads.active().iter().map(ToString::to_string).collect(),
            shares: self.shares.shares().map(str::to_owned).collect(),
            default_file_error: default_file.as_ref().err().map(|error| (&error.problem).into()),
            default_file: default_file.ok().map(|source| v1::DefaultFile {
                name: source.name,
                size: source.size,
                modified_unix_ns: source.modified_ns,
            }),
        }
    }

    fn log_connected(&mut self, took: Duration) {
        let took = human::took(took);
        let outage = self.outage.end(Instant::now()).map(human::span);
        let text = match (self.previous, outage) {
            (PreviousSession::None, Some(outage)) => {
                format!("connected after {outage}; waiting for pulls")
            }
            (PreviousSession::Ended | PreviousSession::Drained, Some(outage)) => {
                format!("connected again after {outage}")
            }
            (PreviousSession::Drained, None) => {
                format!("connected over a new session in {took}, as requested by the server")
            }
            (PreviousSession::None | PreviousSession::Ended, None) => {
                format!("connected in {took}; waiting for pulls")
            }
        };
        self.previous = PreviousSession::Ended;
        self.status_log.info(&text);
    }

    fn log_redial(&mut self, redial: &Redial, wait: Duration) {
        let (outcome, was_connected) = match redial {
            Redial::Drained { .. } => {
                self.previous = PreviousSession::Drained;
                return;
            }
            Redial::Ended { outcome, uptime } => (outcome, uptime.is_some()),
        };
        let suspended = Diagnosis::new(DiagnosisCode::Suspended, "this machine was suspended");
        let (failure, cause) = match outcome {
            SessionOutcome::Lost(failure) => (failure, lost_cause(failure.code)),
            SessionOutcome::Suspended => (&suspended, OutageCause::Lost),
            SessionOutcome::Stopped => return,
            SessionOutcome::EndedByServer { failure, code, .. } if needs_a_person(*code) => {
                (failure, OutageCause::Rejected)
            }
            SessionOutcome::EndedByServer { failure, .. } => (failure, OutageCause::Lost),
        };
        self.status_log.set_failure(failure);
        let reason = failure.text.as_str();
        // Rounded up: "in 0 s" would look like a bug.
        let next = human::span(wait + Duration::from_millis(999));
        match (self.outage.failed(cause, Instant::now()), cause) {
            (None, _) => {
                tracing::debug!(event = "dial.failed", reason, next, "still not connected");
            }
            (Some(OutageMessage::Lasting(time)), _) => {
                let time = human::span(time);
                let text =
                    format!("still not connected after {time}: {reason}; next try in {next}");
                self.status_log.warn(&text);
            }
            (Some(OutageMessage::Started), OutageCause::Rejected) => {
                let what = match outcome {
                    SessionOutcome::EndedByServer { .. } => "the server rejects this machine",
                    SessionOutcome::Lost(_)
                    | SessionOutcome::Suspended
                    | SessionOutcome::Stopped => "cannot connect",
                };
                self.status_log.error(&format!("{what}: {reason}; trying again in {next}"));
            }
            (Some(OutageMessage::Started), OutageCause::Lost) => {
                let what = if was_connected { "connection lost" } else { "cannot connect" };
                self.status_log.warn(&format!("{what}: {reason}; trying again in {next}"));
            }
        }
    }
}
