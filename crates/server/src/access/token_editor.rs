//! Creates, lists and revokes tokens in the file, also beside a running server.
//!
//! Each edit replaces the whole file in one step, so a server never reads half of one. Comments and
//! the other lines stay as they are.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, chown, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, Utc};
use filepull_core::human;
use rustix::process::geteuid;

use super::Role;
use super::token::Token;
use super::token_table::{self, Grant, GrantHolder, GrantLine};
use super::tokens_file::{self, TokensFileError};
use crate::records::{RecordsError, RecordsReader, create_folder};
use crate::scope::Scope;

/// A token to create.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// The name in the records and in the audit.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// The labels of the clients that its holder may see; all clients without a label.
    pub clients: BTreeMap<String, String>,
    /// How long it is valid; forever without a value.
    pub expires: Option<Duration>,
}

/// A token that was created.
#[derive(Debug)]
pub struct CreatedToken {
    /// The secret. It is stored nowhere.
    pub secret: String,
    /// When it expires.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A token or a user of the file.
#[derive(Clone, Debug)]
pub struct TokenInfo {
    /// The name in the records and in the audit.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// The labels of the clients that its holder may see; all clients without a label.
    pub clients: BTreeMap<String, String>,
    /// When it expires.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was created, if the line has a time.
    pub created_at: Option<DateTime<Utc>>,
    /// It is a user whom a proxy signs in.
    pub is_user: bool,
}

/// Why the file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum TokenEditError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] TokensFileError),
    /// The name is not valid.
    #[error("{0:?} is not the name of a token: {1}", .name, .reason)]
    Name {
        /// The text that was given, without control characters.
        name: String,
        /// The rule that it breaks.
        reason: String,
    },
    /// The name exists already.
    #[error(
        "a token or user called {0} exists already; revoke it first: filepull token revoke {0}"
    )]
    Exists(String),
    /// There is no such name.
    #[error("no token or user is called {0}; list them: filepull token list")]
    Unknown(String),
    /// The validity is longer than dates are.
    #[error("the token would expire after the year 9999; leave out --expires for no end")]
    Expiry,
    /// The system has no random numbers.
    #[error("the system returned no random numbers")]
    Random,
}

/// Adds a token. Creates the file and its folder if they are missing. Blocks.
///
/// # Errors
/// The name is invalid or exists, or the file cannot be read or written.
pub fn create(
    path: &Path,
    new: &NewToken,
    now: DateTime<Utc>,
) -> Result<CreatedToken, TokenEditError> {
    let NewToken { name, role, clients, expires } = new;
    token_table::check_token_name(name).map_err(|reason| {
        // A token that was pasted as a name must not be repeated.
        let shown = if name.starts_with(super::token::PREFIX) { "***" } else { name.as_str() };
        TokenEditError::Name { name: human::printable(shown, 80), reason }
    })?;
    let created_at = now.trunc_subsecs(0);
    let end = |time| created_at.checked_add_signed(chrono::TimeDelta::from_std(time).ok()?);
    let is_date = |time: &DateTime<Utc>| time.timestamp() < 253_402_300_800;
    let expires_at = match expires {
        None => None,
        Some(time) => Some(end(*time).filter(is_date).ok_or(TokenEditError::Expiry)?),
    };
    let token = Token::generate().map_err(|_| TokenEditError::Random)?;
    let scope = Scope::of(clients.clone());
    let grant = Grant { name: name.as_str().into(), role: *role, scope, expires_at };
    let line = token_table::token_line(&grant, token.digest(), created_at);
    edit(path, |text, found| {
        if found.iter().any(|line| *line.grant.name == **name) {
            return Err(TokenEditError::Exists(name.clone()));
        }
        let separator = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        let heading = if text.is_empty() { HEADING } else { "" };
        Ok(format!("{heading}{text}{separator}{line}\n"))
    })?;
    Ok(CreatedToken { secret: token.secret().to_owned(), expires_at })
}

/// The first lines of a new file.
const HEADING: &str = "\
# API tokens of filepull: only their SHA-256. Edited by `filepull token create` and `revoke`; a
# running server reads it again within a second. A user of a signing proxy: user NAME ROLE
";

/// Removes a token or a user. Blocks.
///
/// # Errors
/// There is no such name, or the file cannot be read or written.
pub fn revoke(path: &Path, name: &str) -> Result<(), TokenEditError> {
    edit(path, |text, found| {
        if !found.iter().any(|line| *line.grant.name == *name) {
            return Err(TokenEditError::Unknown(human::printable(name, 80)));
        }
        let is_other = |line: &&str| token_table::name_on(line).is_none_or(|found| *found != *name);
        Ok(text.split_inclusive('\n').filter(is_other).collect())
    })
}

/// Returns every token and user of the file, in its order; none if there is no file. Blocks.
///
/// # Errors
/// The file cannot be read.
pub fn list(path: &Path) -> Result<Vec<TokenInfo>, TokensFileError> {
    let Some(text) = read(path)? else { return Ok(Vec::new()) };
    Ok(lines(path, &text)?.into_iter().map(info).collect())
}

fn info(line: GrantLine) -> TokenInfo {
    let GrantLine { grant: Grant { name, role, scope, expires_at }, holder } = line;
    let (created_at, is_user) = match holder {
        GrantHolder::Token { created_at, .. } => (created_at, false),
        GrantHolder::User => (None, true),
    };
    let name = name.to_string();
    TokenInfo { name, role, clients: scope.labels(), expires_at, created_at, is_user }
}

/// Returns when each token was last used, from the records in `records_folder`.
///
/// # Errors
/// There are no records, or they cannot be read.
pub async fn last_uses(
    records_folder: &Path,
) -> Result<HashMap<String, DateTime<Utc>>, RecordsError> {
    RecordsReader::open(records_folder).await?.token_uses().await
}

fn read(path: &Path) -> Result<Option<String>, TokensFileError> {
    match File::open(path) {
        Ok(file) => tokens_file::read_text(&file, path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokensFileError::Io { path: path.to_owned(), source }),
    }
}

fn lines(path: &Path, text: &str) -> Result<Vec<GrantLine>, TokensFileError> {
    let failed = |source| TokensFileError::Line { path: path.to_owned(), source };
    token_table::lines(text).map_err(failed)
}

/// Replaces the text of the file. Two edits at once wait for each other.
fn edit(
    path: &Path,
    change: impl FnOnce(&str, &[GrantLine]) -> Result<String, TokenEditError>,
) -> Result<(), TokenEditError> {
    let failed = |source| TokensFileError::Io { path: path.to_owned(), source };
    // The file may be a link, which must stay.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = parent(&path);
    if !folder.exists() {
        create_folder(&folder).and_then(|()| give_to_owner_of_parent(&folder)).map_err(failed)?;
    }
    let locked = File::open(&folder).map_err(failed)?;
    locked.lock().map_err(failed)?;
    let text = read(&path)?.unwrap_or_default();
    let found = lines(&path, &text)?;
    let changed = change(&text, &found)?;
    replace(&path, &locked, &changed).map_err(failed)?;
    Ok(())
}

/// Lets the user of the server use a folder that root creates in the data folder.
fn give_to_owner_of_parent(folder: &Path) -> io::Result<()> {
    if geteuid().is_root() {
        let owner = fs::metadata(parent(folder))?;
        chown(folder, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

fn parent(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.map_or_else(|| PathBuf::from("."), Path::to_owned)
}

fn replace(path: &Path, folder: &File, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // Left by a command that was killed. The lock of the folder is held.
    let _ = fs::remove_file(&new);
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&new)?;
    if geteuid().is_root() {
        // An edit as root must not take the file away from the user of the server.
        let owner = fs::metadata(path).or_else(|_| folder.metadata())?;
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    folder.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str) -> NewToken {
        let clients = BTreeMap::from([("region".to_owned(), "south".to_owned())]);
        let expires = Some(Duration::from_hours(24));
        NewToken { name: name.to_owned(), role: Role::Operator, clients, expires }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_token_is_created_in_a_private_file_and_revoked() {
        let data_dir = tempfile::tempdir().unwrap();
        let path = data_dir.path().join("new/.filepull/tokens");
        let now = "2026-01-31T00:00:00Z".parse().unwrap();
        let created = create(&path, &new("ci"), now).unwrap();
        assert_eq!(created.expires_at, Some("2026-02-01T00:00:00Z".parse().unwrap()));
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&created.secret), "{text}");
        create(&path, &new("ops"), now).unwrap();
        let exists = create(&path, &new("ci"), now).unwrap_err();
        assert!(matches!(exists, TokenEditError::Exists(_)), "{exists}");
        let names: Vec<_> = list(&path).unwrap().into_iter().map(|token| token.name).collect();
        assert_eq!(names, ["ci", "ops"]);
        revoke(&path, "ci").unwrap();
        assert!(matches!(revoke(&path, "ci"), Err(TokenEditError::Unknown(_))));
        let left = list(&path).unwrap();
        assert_eq!((left.len(), &*left[0].name), (1, "ops"));
        assert_eq!(left[0].clients, new("ops").clients);
        let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn comments_and_users_stay_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        fs::write(&path, "# mine\nuser alice admin # no").unwrap();
        let broken = create(&path, &new("ci"), Utc::now()).unwrap_err().to_string();
        assert!(broken.contains("line 2: there is no field \"#\""), "{broken}");
        fs::write(&path, "# mine\nuser alice admin").unwrap();
        create(&path, &new("ci"), Utc::now()).unwrap();
        revoke(&path, "ci").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "# mine\nuser alice admin\n");
        assert!(list(&path).unwrap()[0].is_user);
    }

    #[test]
    fn a_file_that_is_a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("tokens");
        fs::write(folder.path().join("real"), "user alice admin\n").unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        create(&link, &new("ci"), Utc::now()).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(list(&link).unwrap().len(), 2);
    }

    #[test]
    fn many_edits_at_once_lose_no_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        std::thread::scope(|scope| {
            for n in 0..16 {
                let path = &path;
                scope.spawn(move || create(path, &new(&format!("t{n}")), Utc::now()).unwrap());
            }
        });
        assert_eq!(list(&path).unwrap().len(), 16);
    }

    #[test]
    fn a_name_or_an_expiry_that_cannot_be_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let secret = Token::generate().unwrap().secret().to_owned();
        for name in ["", "a b", "10.0.0.1", "server", "-x", "a\u{1b}", &secret] {
            let error = create(&path, &new(name), Utc::now()).unwrap_err();
            assert!(matches!(error, TokenEditError::Name { .. }), "{name:?}: {error}");
            assert!(!error.to_string().contains(&secret), "{error}");
        }
        let expires = Some(Duration::MAX);
        let error = create(&path, &NewToken { expires, ..new("ci") }, Utc::now()).unwrap_err();
        assert!(matches!(error, TokenEditError::Expiry), "{error}");
        assert!(!path.exists());
    }
}
