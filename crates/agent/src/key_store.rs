//! `STATE_DIR`: the key of this machine, and what an invite told it about the server. The files have
//! mode 0600, and each write survives a power cut before it is used.
//!
//! `key` is the current key, `key.next` the key of a rotation that the server has not accepted yet.
//! `identity.json` exists once the server has this machine on record.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use filepull_core::digest::Digest;
use filepull_core::fingerprint::Fingerprint;
use filepull_core::id::ClientId;
use filepull_core::invite::{Invite, ServerAddress};
use filepull_trust::AgentKey;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::error_text::io_error;

const KEY: &str = "key";
const NEXT_KEY: &str = "key.next";
const IDENTITY: &str = "identity.json";
const TEMPORARY: &str = ".key-";

/// Maximum length of each file: 64 KiB. An agent never writes a longer one.
const MAX_LEN: u64 = 64 * 1024;

/// The folder with the key of this machine. All methods block.
#[derive(Clone, Debug)]
pub(crate) struct KeyStore {
    dir: PathBuf,
}

/// Who this machine is for its server, and which server that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AgentIdentity {
    pub(crate) client: ClientId,
    /// At least one.
    pub(crate) servers: Vec<ServerAddress>,
    /// Empty: the server's certificate is publicly trusted.
    pub(crate) ca_pins: Vec<Fingerprint>,
    /// The hash of the secret that enrolled this machine. An invite with another one is new.
    pub(crate) invite: Digest,
}

/// A file of the key store cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyStoreError {
    /// The system rejects it.
    #[error("STATE_DIR: {} cannot be {action}: {}", path.display(), io_error(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The file was changed by something else.
    #[error(
        "STATE_DIR: {} is damaged. To enrol this machine again, remove the file, run `filepull invite \
         ID --replace` on the server, and set INVITE", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// The form of `identity.json`.
#[derive(Serialize, Deserialize)]
struct IdentityFile {
    client_id: String,
    servers: Vec<String>,
    ca_pins: Vec<Fingerprint>,
    invite_sha256: String,
}

impl KeyStore {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Returns the current key; `None` if there is none yet.
    pub(crate) fn key(&self) -> Result<Option<AgentKey>, KeyStoreError> {
        self.read_key(KEY)
    }

    /// Returns the key of an unfinished rotation.
    pub(crate) fn next_key(&self) -> Result<Option<AgentKey>, KeyStoreError> {
        self.read_key(NEXT_KEY)
    }

    /// Returns the identity; `None` if this machine is not enrolled.
    pub(crate) fn identity(&self) -> Result<Option<AgentIdentity>, KeyStoreError> {
        let Some(text) = self.read(IDENTITY)? else { return Ok(None) };
        let damaged = || KeyStoreError::Damaged { path: self.dir.join(IDENTITY) };
        serde_json::from_str(&text)
            .ok()
            .and_then(AgentIdentity::from_file)
            .map(Some)
            .ok_or_else(damaged)
    }

    /// Makes the first key of this machine durable.
    pub(crate) fn write_key(&self, key: &AgentKey) -> Result<(), KeyStoreError> {
        self.write(KEY, key.to_pem().as_bytes())
    }

    /// Makes the key of a rotation durable, beside the current one.
    pub(crate) fn write_next_key(&self, key: &AgentKey) -> Result<(), KeyStoreError> {
        self.write(NEXT_KEY, key.to_pem().as_bytes())
    }

    /// Replaces the current key by the next one in one step.
    pub(crate) fn promote_next_key(&self) -> Result<(), KeyStoreError> {
        let result = fs::rename(self.dir.join(NEXT_KEY), self.dir.join(KEY));
        result.and_then(|()| self.sync_dir()).map_err(|source| self.error(KEY, "written", source))
    }

    /// Makes the identity durable. It replaces an earlier one in one step.
    pub(crate) fn write_identity(&self, identity: &AgentIdentity) -> Result<(), KeyStoreError> {
        let serialized = serde_json::to_vec_pretty(&identity.to_file());
        let text = serialized.map_err(|error| self.error(IDENTITY, "written", error.into()))?;
        self.write(IDENTITY, &text)
    }

    /// Creates the folder, and removes the temporary files of an agent that was killed.
    pub(crate) fn prepare(&self) -> Result<(), KeyStoreError> {
        fs::create_dir_all(&self.dir).map_err(|source| self.error("", "written", source))?;
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    fn read_key(&self, name: &str) -> Result<Option<AgentKey>, KeyStoreError> {
        let Some(pem) = self.read(name)? else { return Ok(None) };
        let damaged = |_| KeyStoreError::Damaged { path: self.dir.join(name) };
        AgentKey::from_pem(&pem).map(Some).map_err(damaged)
    }

    fn read(&self, name: &str) -> Result<Option<String>, KeyStoreError> {
        match read_private(&self.dir.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(source) => Err(self.error(name, "read", source)),
        }
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), KeyStoreError> {
        self.write_durably(name, content).map_err(|source| self.error(name, "written", source))
    }

    /// Writes a temporary file, fsyncs it, renames it, and fsyncs the folder: the file is old or new.
    fn write_durably(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut temporary = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(&self.dir)?;
        temporary.write_all(content)?;
        temporary.as_file().sync_all()?;
        temporary.persist(self.dir.join(name)).map_err(|error| error.error)?;
        self.sync_dir()
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn error(&self, name: &str, action: &'static str, source: io::Error) -> KeyStoreError {
        KeyStoreError::Io { path: self.dir.join(name), action, source }
    }
}

/// Reads a file that only its owner may read. Another user must learn nothing from a copied mode.
fn read_private(path: &Path) -> io::Result<String> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    let mut text = String::new();
    file.take(MAX_LEN).read_to_string(&mut text)?;
    Ok(text)
}

impl AgentIdentity {
    /// Returns the identity that an invite gives to a client.
    pub(crate) fn from_invite(client: ClientId, invite: &Invite) -> Self {
        Self {
            client,
            servers: invite.addresses().to_vec(),
            ca_pins: invite.ca_pins().to_vec(),
            invite: invite.secret().hash(),
        }
    }

    fn from_file(file: IdentityFile) -> Option<Self> {
        let servers: Result<Vec<_>, _> =
            file.servers.iter().map(|text| ServerAddress::parse(text)).collect();
        Some(Self {
            client: ClientId::parse(&file.client_id).ok()?,
            servers: servers.ok().filter(|servers| !servers.is_empty())?,
            ca_pins: file.ca_pins,
            invite: Digest::parse(&file.invite_sha256)?,
        })
    }

    fn to_file(&self) -> IdentityFile {
        IdentityFile {
            client_id: self.client.to_string(),
            servers: self.servers.iter().map(ToString::to_string).collect(),
            ca_pins: self.ca_pins.clone(),
            invite_sha256: self.invite.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> AgentIdentity {
        AgentIdentity {
            client: ClientId::parse("client4").unwrap(),
            servers: vec![ServerAddress::parse("pull.example.com").unwrap()],
            ca_pins: vec![AgentKey::generate().fingerprint()],
            invite: Digest::of(b"secret"),
        }
    }

    #[test]
    fn files_are_private_and_read_as_they_were_written() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = KeyStore::new(dir.path());
        assert!(store.key().unwrap().is_none() && store.identity().unwrap().is_none());
        let key = AgentKey::generate();
        store.write_key(&key).unwrap();
        store.write_identity(&identity()).unwrap();
        assert_eq!(store.key().unwrap().unwrap().fingerprint(), key.fingerprint());
        assert_eq!(store.identity().unwrap().unwrap().client.as_str(), "client4");
        for name in [KEY, IDENTITY] {
            let mode = fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn the_next_key_replaces_the_current_one_in_one_step() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = KeyStore::new(dir.path());
        let next = AgentKey::generate();
        store.write_key(&AgentKey::generate()).unwrap();
        store.write_next_key(&next).unwrap();
        assert_ne!(store.key().unwrap().unwrap().fingerprint(), next.fingerprint());
        store.promote_next_key().unwrap();
        assert_eq!(store.key().unwrap().unwrap().fingerprint(), next.fingerprint());
        assert!(store.next_key().unwrap().is_none());
    }

    #[test]
    fn a_damaged_file_is_named_and_not_quoted() {
        let dir = tempfile::TempDir::new().unwrap();
        let store = KeyStore::new(dir.path());
        fs::write(dir.path().join(KEY), "-----BEGIN PRIVATE KEY-----\nSECRET").unwrap();
        let error = store.key().unwrap_err().to_string();
        assert!(error.contains("key is damaged") && !error.contains("SECRET"), "{error}");
        let mode = fs::metadata(dir.path().join(KEY)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "a key that others may read is closed to them");
        fs::write(dir.path().join(IDENTITY), "{}").unwrap();
        assert!(matches!(store.identity(), Err(KeyStoreError::Damaged { .. })));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let store = KeyStore::new(&file.path().join("state"));
        let error = store.prepare().unwrap_err().to_string();
        assert!(error.starts_with("STATE_DIR: ") && error.contains("written"), "{error}");
    }
}
