//! Keeps the tokens of the running server: reads the file again when it changes, and notes in the
//! records when a token was used.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use filepull_core::human;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::changes;
use super::token::{Token, TokenError};
use super::token_table::{Grant, TokenTable};
use super::tokens_file::{self, FileStamp, TokensFile, TokensFileError};
use super::{CallerIdentity, SignIn};
use crate::records::{Records, RecordsError};

/// How often the file is checked. A revoked token stops working within a second.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// How long a change of the tokens waits for its audit record.
const AUDIT_LIMIT: Duration = Duration::from_millis(500);

/// The last use of a token is recorded at most this often.
const USE_INTERVAL: TimeDelta = TimeDelta::minutes(1);

/// The tokens and users in effect. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Tokens {
    table: watch::Receiver<Arc<TokenTable>>,
    uses: TokenUses,
}

/// The last use of each token. Bounded by the names in the files that were read.
#[derive(Clone, Debug, Default)]
struct TokenUses(Arc<Mutex<HashMap<Arc<str>, LastUse>>>);

#[derive(Clone, Copy, Debug)]
struct LastUse {
    at: DateTime<Utc>,
    recorded_at: Option<DateTime<Utc>>,
}

/// Why a caller is not signed in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SignInError {
    #[error("This is not a token of filepull: {0}.")]
    Malformed(TokenError),
    #[error("This token is not valid: it was revoked, or another server issued it.")]
    Unknown,
    #[error("The token {name} expired at {}.", .at.format("%Y-%m-%d %H:%M UTC"))]
    Expired { name: Arc<str>, at: DateTime<Utc> },
    #[error("The user {0:?} may not use this server.")]
    UnknownUser(String),
    #[error("The access of the user {name} ended at {}.", .at.format("%Y-%m-%d %H:%M UTC"))]
    ExpiredUser { name: Arc<str>, at: DateTime<Utc> },
}

impl Tokens {
    /// Returns who has the token that a caller sent.
    pub(crate) fn by_token(
        &self,
        text: &str,
        now: DateTime<Utc>,
    ) -> Result<CallerIdentity, SignInError> {
        let token = Token::parse(text).map_err(SignInError::Malformed)?;
        let table = Arc::clone(&self.table.borrow());
        let grant = table.token(&token.digest()).ok_or(SignInError::Unknown)?;
        match grant.expires_at {
            Some(at) if grant.is_expired(now) => {
                Err(SignInError::Expired { name: Arc::clone(&grant.name), at })
            }
            _ => Ok(self.used(grant, SignIn::Token, now)),
        }
    }

    /// Returns the user whom a trusted proxy names.
    pub(crate) fn by_user(
        &self,
        name: &str,
        now: DateTime<Utc>,
    ) -> Result<CallerIdentity, SignInError> {
        let table = Arc::clone(&self.table.borrow());
        let unknown = || SignInError::UnknownUser(human::printable(name, 128));
        let grant = table.user(name).ok_or_else(unknown)?;
        match grant.expires_at {
            Some(at) if grant.is_expired(now) => {
                Err(SignInError::ExpiredUser { name: Arc::clone(&grant.name), at })
            }
            _ => Ok(self.used(grant, SignIn::Proxy, now)),
        }
    }

    fn used(&self, grant: &Grant, sign_in: SignIn, now: DateTime<Utc>) -> CallerIdentity {
        self.uses.note(&grant.name, now);
        grant.identity(sign_in)
    }
}

impl TokenUses {
    fn note(&self, name: &Arc<str>, now: DateTime<Utc>) {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = LastUse { at: now, recorded_at: None };
        uses.entry(Arc::clone(name)).or_insert(first).at = now;
    }

    /// Returns the uses to record now. `min_age`: how long ago the last recorded use must be.
    fn due(&self, min_age: TimeDelta) -> Vec<(Arc<str>, DateTime<Utc>)> {
        let uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = |last: &LastUse| last.recorded_at.is_none_or(|at| min_age < last.at - at);
        let due = uses.iter().filter(|(_, last)| is_due(last));
        due.map(|(name, last)| (Arc::clone(name), last.at)).collect()
    }

    async fn record(&self, records: &Records, min_age: TimeDelta) {
        let due = self.due(min_age);
        if due.is_empty() {
            return;
        }
        match records.note_token_uses(&due).await {
            Ok(()) => self.recorded(&due),
            Err(error) => {
                warn!(event = "tokens.use_not_recorded", %error, "the last use is not on record");
            }
        }
    }

    fn recorded(&self, recorded: &[(Arc<str>, DateTime<Utc>)]) {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, at) in recorded {
            if let Some(last) = uses.get_mut(name) {
                last.recorded_at = Some(*at);
            }
        }
    }
}

/// The task behind [`Tokens`].
#[derive(Debug)]
pub(crate) struct TokensKeeper {
    path: PathBuf,
    /// Of the newest file that was checked, whether it was accepted or not; none if it is missing.
    stamp: Option<FileStamp>,
    table: watch::Sender<Arc<TokenTable>>,
    uses: TokenUses,
}

impl TokensKeeper {
    /// Takes over a file that was read at the start.
    pub(crate) fn new(path: PathBuf, file: TokensFile) -> Self {
        let TokensFile { table, stamp, .. } = file;
        let table = watch::Sender::new(Arc::new(table));
        Self { path, stamp: Some(stamp), table, uses: TokenUses::default() }
    }

    /// Records the tokens in the audit, if they have changed since the last start.
    ///
    /// # Errors
    /// The records cannot be read or written.
    pub(crate) async fn record(&self, records: &Records) -> Result<(), RecordsError> {
        let table = Arc::clone(&self.table.borrow());
        changes::record_at_start(records, &table).await
    }

    /// Returns the handle for requests.
    pub(crate) fn tokens(&self) -> Tokens {
        Tokens { table: self.table.subscribe(), uses: self.uses.clone() }
    }

    /// Checks the file and records uses, until `stop`.
    pub(crate) async fn run(mut self, records: Records, stop: CancellationToken) {
        let uses = self.uses.clone();
        let check_file = async {
            while stop.run_until_cancelled(sleep(CHECK_INTERVAL)).await.is_some() {
                self.check_file(&records).await;
            }
        };
        // Apart from the checks, because the disk of the records may hang.
        let record_uses = async {
            while stop.run_until_cancelled(sleep(CHECK_INTERVAL)).await.is_some() {
                uses.record(&records, USE_INTERVAL).await;
            }
            uses.record(&records, TimeDelta::zero()).await;
        };
        tokio::join!(check_file, record_uses);
    }

    /// Reads the file again if it has changed. A file that cannot be read changes nothing: the tokens
    /// stay as they are.
    async fn check_file(&mut self, records: &Records) {
        let path = self.path.clone();
        let known = self.stamp;
        let job = move || {
            let stamp = FileStamp::of(&path);
            (stamp != known).then(|| (stamp, tokens_file::read(&path)))
        };
        let Ok(Some((stamp, read))) = spawn_blocking(job).await else { return };
        self.stamp = stamp;
        match read {
            Ok(Some(file)) => self.accept(file, records).await,
            Ok(None) => self.log_kept(&"the file is missing"),
            Err(error) => self.log_kept(&error),
        }
    }

    async fn accept(&mut self, file: TokensFile, records: &Records) {
        let TokensFile { table, stamp, is_readable_by_others } = file;
        self.stamp = Some(stamp);
        let entry = changes::entry(&self.table.borrow(), &table);
        if let Some(entry) = entry {
            // A token that was revoked must stop also if the disk of the records hangs.
            let recorded = timeout(AUDIT_LIMIT, records.audit(entry)).await;
            if !matches!(recorded, Ok(Ok(()))) {
                error!(event = "tokens.audit_failed", "a change of the tokens is not on record");
            }
        }
        self.table.send_replace(Arc::new(table));
        info!(event = "tokens.reloaded", file = %self.path.display(), "tokens read again");
        if is_readable_by_others {
            warn_readable(&self.path.display().to_string());
        }
    }

    fn log_kept(&self, reason: &dyn std::fmt::Display) {
        error!(
            event = "tokens.reload_failed", file = %self.path.display(), %reason,
            "the tokens stay as they were"
        );
    }
}

/// Warns that other users can read the file.
pub(crate) fn warn_readable(file: &str) {
    warn!(
        event = "config.warning",
        key = "TOKENS_FILE",
        file,
        "other users of this machine can read the names and hashes of the tokens: chmod 600"
    );
}

/// Reads the file for the start of the server.
///
/// # Errors
/// The file cannot be used.
pub(crate) async fn open(path: PathBuf) -> Result<Option<TokensFile>, TokensFileError> {
    let file = path.clone();
    let read = spawn_blocking(move || tokens_file::read(&file)).await;
    read.map_err(|error| TokensFileError::Io { path, source: error.into() })?
}
