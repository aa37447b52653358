//! The authorities on disk: one folder for each, and one file that says which of them is current.
//!
//! ```text
//! .filepull/tls/authority.json       the state of the rotation; replaced as a whole
//! .filepull/tls/ca-1f0c…/ca.pem      a certificate; never changed
//! .filepull/tls/ca-1f0c…/ca-key.pem  its key; only the owner reads it
//! .filepull/tls/server.pem           the server's certificate, for people; its key is never on disk
//! ```
//!
//! A folder gets its name after its files are durable, and `authority.json` names only such folders. So a
//! process may be killed at any step.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use filepull_core::fingerprint::Fingerprint;
use filepull_trust::{AuthorityError, CertificateAuthority};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::files::{self, FileError, PRIVATE, PUBLIC};
use super::rotation::Rotation;

/// Why the server has no authority.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key or a certificate cannot be created.
    #[error("cannot create an authority")]
    Create(#[source] AuthorityError),
    /// One of the two files is missing.
    #[error("{} lies there without {}. {}", found.display(), missing.display(), RESTORE)]
    Half { found: PathBuf, missing: PathBuf },
    /// The files exist, and are not an authority.
    #[error("{} and {CERTIFICATE} beside it are not an authority: {source}. {}", key.display(), RESTORE)]
    Broken { key: PathBuf, source: AuthorityError },
    /// The files belong to another authority than the folder's name says.
    #[error("{} is another authority than its folder says. {}", .0.display(), RESTORE)]
    Other(PathBuf),
    /// An authority is named, and its folder is missing.
    #[error("{} is missing. {}", .0.display(), RESTORE)]
    Missing(PathBuf),
    /// The file with the state cannot be understood.
    #[error("{} cannot be read: {reason}. {}", path.display(), RESTORE)]
    State { path: PathBuf, reason: String },
}

/// What to do about damaged files. A new authority is never created in their place.
const RESTORE: &str = "Restore the folder .filepull/tls of DATA_DIR from a backup. If there is none, \
                       remove it: the server then makes a new authority, and every agent needs a new \
                       invite";

const STATE: &str = "authority.json";
const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca-key.pem";
const SERVER: &str = "server.pem";

/// What `authority.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateOnDisk {
    #[serde(flatten)]
    pub(crate) rotation: Rotation<Fingerprint>,
    /// When the state was entered.
    pub(crate) since: DateTime<Utc>,
    /// When the successor was announced: before the switch the next authority, after it the current one.
    #[serde(default)]
    pub(crate) announced_at: Option<DateTime<Utc>>,
}

/// The folder of the authorities.
#[derive(Clone, Debug)]
pub(crate) struct AuthorityFolder(PathBuf);

impl AuthorityFolder {
    /// Returns the folder at `path`. Reads nothing.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Returns the state and its authorities. Creates the first authority if there is none.
    pub(crate) fn open(
        &self,
    ) -> Result<(StateOnDisk, Rotation<Arc<CertificateAuthority>>), FolderError> {
        let state = match self.read_state()? {
            Some(state) => state,
            None => {
                self.create_first()?;
                self.read_state()?.ok_or_else(|| FolderError::Missing(self.0.join(STATE)))?
            }
        };
        let authorities =
            state.rotation.try_map(|fingerprint| self.load(fingerprint).map(Arc::new))?;
        self.remove_unused(&state.rotation);
        Ok((state, authorities))
    }

    /// Writes the files of a successor. Nothing refers to them yet.
    pub(crate) fn add(&self, authority: &CertificateAuthority) -> Result<(), FolderError> {
        let folder = self.folder_of(&authority.fingerprint());
        let new = folder.with_extension("new");
        files::remove_folder(&new)?;
        write_authority(&new, authority)?;
        Ok(files::rename(&new, &folder)?)
    }

    /// Makes a state durable. Its authorities were added before.
    pub(crate) fn save(&self, state: &StateOnDisk) -> Result<(), FolderError> {
        Ok(files::replace(&self.0.join(STATE), &json(state), PRIVATE)?)
    }

    /// Removes authorities that the state does not name: a retired one, or a successor whose
    /// announcement was not recorded. Logs an error, because the next start tries again.
    pub(crate) fn remove_unused(&self, rotation: &Rotation<Fingerprint>) {
        let used: Vec<PathBuf> = rotation.pinned().map(|used| self.folder_of(used)).collect();
        let Ok(entries) = std::fs::read_dir(&self.0) else { return };
        for entry in entries.flatten() {
            let is_authority = entry.file_name().to_string_lossy().starts_with("ca-");
            let path = entry.path();
            if is_authority
                && !used.contains(&path)
                && let Err(error) = files::remove_folder(&path)
            {
                warn!(event = "authority.remove_failed", %error, "cannot remove an old authority");
            }
        }
    }

    /// Writes the certificate of the server, for people who look at it.
    pub(crate) fn show_certificate(&self, chain: &[CertificateDer<'_>]) -> Result<(), FileError> {
        let text = files::pem(chain.iter().map(AsRef::as_ref));
        files::replace(&self.0.join(SERVER), text.as_bytes(), PUBLIC)
    }

    fn read_state(&self) -> Result<Option<StateOnDisk>, FolderError> {
        let path = self.0.join(STATE);
        let Some(text) = files::read(&path)? else {
            return match self.first_file() {
                Some(found) => Err(FolderError::Half { found, missing: path }),
                None => Ok(None),
            };
        };
        let parsed = serde_json::from_str(&text);
        parsed.map_err(|error| FolderError::State { path, reason: error.to_string() })
    }

    /// Returns a file of an authority. A folder that holds one is not the folder of a new server.
    fn first_file(&self) -> Option<PathBuf> {
        let entries = std::fs::read_dir(&self.0).ok()?.flatten();
        let folders = std::iter::once(self.0.clone()).chain(entries.map(|entry| entry.path()));
        let mut files = folders.flat_map(|folder| [KEY, CERTIFICATE].map(|name| folder.join(name)));
        files.find(|path| path.exists())
    }

    /// Creates the folder with the first authority, in one step.
    fn create_first(&self) -> Result<(), FolderError> {
        let authority =
            CertificateAuthority::generate(AUTHORITY_NAME).map_err(FolderError::Create)?;
        let fingerprint = authority.fingerprint();
        let new = self.0.with_extension("new");
        files::remove_folder(&new)?;
        std::fs::create_dir_all(&new).map_err(files::failed("create", &new))?;
        let staged = Self(new.clone());
        write_authority(&staged.folder_of(&fingerprint), &authority)?;
        let rotation = Rotation::Steady { current: fingerprint };
        staged.save(&StateOnDisk { rotation, since: Utc::now(), announced_at: None })?;
        files::rename(&new, &self.0)?;
        info!(
            event = "authority.created", %fingerprint, folder = %self.0.display(),
            "certificate authority created: keep a backup of its folder"
        );
        Ok(())
    }

    fn load(&self, fingerprint: &Fingerprint) -> Result<CertificateAuthority, FolderError> {
        let folder = self.folder_of(fingerprint);
        let certificate = folder.join(CERTIFICATE);
        let key = folder.join(KEY);
        let authority = match (files::read(&certificate)?, files::read(&key)?) {
            (Some(certificate), Some(key_pem)) => {
                CertificateAuthority::from_pem(&certificate, &key_pem)
                    .map_err(|source| FolderError::Broken { key: key.clone(), source })?
            }
            (Some(_), None) => return Err(FolderError::Half { found: certificate, missing: key }),
            (None, Some(_)) => return Err(FolderError::Half { found: key, missing: certificate }),
            (None, None) => return Err(FolderError::Missing(folder)),
        };
        if authority.fingerprint() != *fingerprint {
            return Err(FolderError::Other(certificate));
        }
        if files::is_readable_by_all(&key) {
            super::warn_of(&format!(
                "every user of this machine can read the key of the authority. Run: chmod 600 {}",
                key.display()
            ));
        }
        Ok(authority)
    }

    fn folder_of(&self, fingerprint: &Fingerprint) -> PathBuf {
        /// Enough of the fingerprint to tell the authorities of one server apart.
        const SHORT_LEN: usize = 16;
        let digits = fingerprint.digest().to_string();
        self.0.join(format!("ca-{}", &digits[..SHORT_LEN]))
    }
}

/// The name in the certificate. Agents ignore it; people see it in their tools.
pub(crate) const AUTHORITY_NAME: &str = "filepull authority";

fn write_authority(folder: &Path, authority: &CertificateAuthority) -> Result<(), FileError> {
    std::fs::create_dir_all(folder).map_err(files::failed("create", folder))?;
    files::create(&folder.join(KEY), authority.key_pem().as_bytes(), PRIVATE)?;
    let certificate = files::pem([authority.certificate().as_ref()]);
    files::create(&folder.join(CERTIFICATE), certificate.as_bytes(), PUBLIC)?;
    files::sync_folder(folder)
}

fn json(state: &StateOnDisk) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(state).expect("a state has no map and no float");
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, AuthorityFolder) {
        let temp = tempfile::tempdir().unwrap();
        let folder = AuthorityFolder::new(temp.path().join("tls"));
        (temp, folder)
    }

    fn authority_files(folder: &AuthorityFolder) -> (PathBuf, PathBuf) {
        let (state, _) = folder.open().unwrap();
        let path = folder.folder_of(state.rotation.current());
        (path.join(CERTIFICATE), path.join(KEY))
    }

    #[test]
    fn the_first_start_creates_an_authority_and_later_starts_use_it() {
        let (_temp, folder) = folder();
        // A process was killed while it created the folder.
        std::fs::create_dir_all(folder.0.with_extension("new").join("ca-1")).unwrap();
        let (first, authorities) = folder.open().unwrap();
        assert_eq!(first.rotation.current(), &authorities.current().fingerprint());
        assert_eq!(folder.open().unwrap().0, first);
        let (certificate, key) = authority_files(&folder);
        assert!(!files::is_readable_by_all(&key) && files::is_readable_by_all(&certificate));
        let names = std::fs::read_dir(folder.0.parent().unwrap()).unwrap();
        assert_eq!(names.count(), 1);
    }

    #[test]
    fn a_key_without_its_certificate_and_the_reverse_are_rejected() {
        for lost in [CERTIFICATE, KEY, STATE] {
            let (_temp, folder) = folder();
            let (certificate, _) = authority_files(&folder);
            let lost =
                if lost == STATE { folder.0.join(lost) } else { certificate.with_file_name(lost) };
            std::fs::remove_file(&lost).unwrap();
            let error = folder.open().map(drop).unwrap_err().to_string();
            assert!(error.contains(&format!("without {}", lost.display())), "{error}");
            assert!(error.contains("from a backup"), "{error}");
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_rejected() {
        let (_temp, folder) = folder();
        let (_, key) = authority_files(&folder);
        let other = CertificateAuthority::generate("other").unwrap();
        std::fs::write(&key, other.key_pem()).unwrap();
        let error = folder.open().map(drop).unwrap_err().to_string();
        assert!(error.contains("does not belong to the certificate"), "{error}");
        assert!(!error.contains("BEGIN"), "{error}");
    }

    #[test]
    fn an_authority_of_another_server_is_rejected() {
        let (_temp, folder) = folder();
        let (certificate, key) = authority_files(&folder);
        let other = CertificateAuthority::generate("other").unwrap();
        std::fs::write(&key, other.key_pem()).unwrap();
        std::fs::write(&certificate, files::pem([other.certificate().as_ref()])).unwrap();
        assert!(matches!(folder.open(), Err(FolderError::Other(_))));
    }

    #[test]
    fn a_successor_that_was_not_recorded_is_removed_at_the_next_start() {
        let (_temp, folder) = folder();
        folder.open().unwrap();
        let successor = CertificateAuthority::generate(AUTHORITY_NAME).unwrap();
        folder.add(&successor).unwrap();
        assert!(folder.folder_of(&successor.fingerprint()).exists());
        folder.open().unwrap();
        assert!(!folder.folder_of(&successor.fingerprint()).exists());
    }
}
