//! A certificate and a key in files of the operator, read again when the files change.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use filepull_core::fingerprint::Fingerprint;
use filepull_trust::{fingerprint_of, is_self_issued, is_system_root};
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use tokio::sync::watch;
use tracing::{info, warn};

use super::acceptor::Alpn;
use super::certificate::{PresentError, ServerCertificate};
use super::{CaPins, files, warn_of};

/// Where the certificate of a listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificatePaths {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// The settings that name the two files, for messages.
    pub(crate) settings: [&'static str; 2],
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateFilesError {
    /// A file cannot be read.
    #[error("cannot read {setting}={}: {source}", path.display())]
    Unreadable { setting: &'static str, path: PathBuf, source: std::io::Error },
    /// The file holds something else.
    #[error("{setting}={} has no {what} in PEM", path.display())]
    NotPem { setting: &'static str, path: PathBuf, what: &'static str },
    /// The two do not belong together.
    #[error("{}={} and {}: {source}", settings[0], path.display(), settings[1])]
    Pair { settings: [&'static str; 2], path: PathBuf, source: PresentError },
}

/// The certificate of one listener, which follows its files.
#[derive(Debug)]
pub(crate) struct CertificateFiles {
    paths: CertificatePaths,
    alpn: Alpn,
    /// The names by which peers reach the listener. Empty: unknown.
    names: Vec<String>,
    /// What the files looked like when they were last read.
    read: [Option<CertificateStamp>; 2],
    /// What they looked like at the last check.
    seen: [Option<CertificateStamp>; 2],
    presented: watch::Sender<Arc<ServerCertificate>>,
    pins: watch::Sender<Arc<[Fingerprint]>>,
}

/// Identifies the content of a file, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CertificateStamp {
    inode: u64,
    len: u64,
    modified: Option<SystemTime>,
    changed_ns: (i64, i64),
}

impl CertificateFiles {
    /// Reads the files. Logs a warning if the certificate is for none of `names`, or if every user can
    /// read the key. Blocks.
    pub(crate) fn open(
        paths: CertificatePaths,
        names: Vec<String>,
        alpn: Alpn,
    ) -> Result<Self, CertificateFilesError> {
        let stamps = paths.stamps();
        let presented = paths.load(alpn)?;
        let pins = pins_of(&presented);
        let files = Self {
            alpn,
            names,
            read: stamps,
            seen: stamps,
            presented: watch::Sender::new(Arc::new(presented)),
            pins: watch::Sender::new(pins),
            paths,
        };
        files.warn();
        Ok(files)
    }

    /// Returns the certificate, which follows the files.
    pub(crate) fn presented(&self) -> watch::Receiver<Arc<ServerCertificate>> {
        self.presented.subscribe()
    }

    /// Returns the pins of the authority that issued the certificate. None if it is publicly trusted.
    pub(crate) fn pins(&self) -> CaPins {
        CaPins::new(self.pins.subscribe())
    }

    /// Returns the files.
    pub(crate) fn paths(&self) -> &CertificatePaths {
        &self.paths
    }

    /// Reads the files again if they changed. A pair that is broken changes nothing and logs a warning.
    /// Files that changed since the last check are read at the next one: a tool may be writing. Blocks.
    pub(crate) fn reload(&mut self) {
        let stamps = self.paths.stamps();
        let is_settled = stamps == self.seen;
        self.seen = stamps;
        if !is_settled || stamps == self.read {
            return;
        }
        self.read = stamps;
        let certificate = self.paths.certificate.display();
        match self.paths.load(self.alpn) {
            Ok(presented) => {
                self.pins.send_replace(pins_of(&presented));
                let fingerprint = presented.fingerprint;
                self.presented.send_replace(Arc::new(presented));
                info!(
                    event = "certificate.reloaded", file = %certificate, %fingerprint,
                    "certificate reloaded"
                );
                self.warn();
            }
            Err(error) => warn!(
                event = "certificate.reload_failed", file = %certificate, %error,
                "the new certificate cannot be used: the server keeps the old one"
            ),
        }
    }

    fn warn(&self) {
        let [certificate, key] = self.paths.settings;
        if files::is_readable_by_all(&self.paths.key) {
            let path = self.paths.key.display();
            warn_of(&format!(
                "every user of this machine can read {key}={path}. Run: chmod 600 {path}"
            ));
        }
        let missing = self.missing_names().join(", ");
        if !missing.is_empty() {
            let path = self.paths.certificate.display();
            warn_of(&format!(
                "{certificate}={path} is not for {missing}: agents without pins and browsers reject \
                 it. Use a certificate for that name, or set PUBLIC_ADDR"
            ));
        }
    }

    /// Returns the names that the certificate is not for.
    fn missing_names(&self) -> Vec<String> {
        let presented = self.presented.borrow();
        let Some(Ok(parsed)) = presented.chain.first().map(ParsedCertificate::try_from) else {
            return Vec::new();
        };
        let is_covered = |name: &String| {
            ServerName::try_from(name.as_str())
                .is_ok_and(|name| verify_server_name(&parsed, &name).is_ok())
        };
        self.names.iter().filter(|name| !is_covered(name)).cloned().collect()
    }
}

impl CertificatePaths {
    fn stamps(&self) -> [Option<CertificateStamp>; 2] {
        [&self.certificate, &self.key].map(|path| {
            let metadata = fs::metadata(path).ok()?;
            Some(CertificateStamp {
                inode: metadata.ino(),
                len: metadata.len(),
                modified: metadata.modified().ok(),
                changed_ns: (metadata.ctime(), metadata.ctime_nsec()),
            })
        })
    }

    fn load(&self, alpn: Alpn) -> Result<ServerCertificate, CertificateFilesError> {
        let [certificate, key] = self.settings;
        let chain_pem = read(certificate, &self.certificate)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain_pem).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| {
            let path = self.certificate.clone();
            CertificateFilesError::NotPem { setting: certificate, path, what: "certificate" }
        })?;
        let key_pem = read(key, &self.key)?;
        let private_key = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|_| {
            let path = self.key.clone();
            CertificateFilesError::NotPem { setting: key, path, what: "private key" }
        })?;
        ServerCertificate::new(chain, private_key, alpn).map_err(|source| {
            let path = self.certificate.clone();
            CertificateFilesError::Pair { settings: self.settings, path, source }
        })
    }
}

fn read(setting: &'static str, path: &std::path::Path) -> Result<Vec<u8>, CertificateFilesError> {
    fs::read(path).map_err(|source| CertificateFilesError::Unreadable {
        setting,
        path: path.to_owned(),
        source,
    })
}

/// Returns the key of the private authority whose certificate ends the chain. A root of this system is
/// none: who pins it accepts every certificate that it issued, for any name.
fn pins_of(presented: &ServerCertificate) -> Arc<[Fingerprint]> {
    let last = presented.chain.last();
    let private =
        last.filter(|last| is_self_issued(last).unwrap_or(false) && !is_system_root(last));
    private.and_then(|root| fingerprint_of(root).ok()).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use filepull_trust::{CertificateAuthority, IssuedCertificate};

    use super::super::certificate::own_validity;
    use super::*;

    fn issue(authority: &CertificateAuthority, name: &str) -> IssuedCertificate {
        authority.issue(&[name.to_owned()], own_validity(SystemTime::now())).unwrap()
    }

    fn write(folder: &Path, issued: &IssuedCertificate) {
        let chain = files::pem(issued.chain.iter().map(AsRef::as_ref));
        fs::write(folder.join("cert.pem"), chain).unwrap();
        write_key(folder, issued);
    }

    fn write_key(folder: &Path, issued: &IssuedCertificate) {
        let key = files::pem([issued.key.secret_der()]).replace("CERTIFICATE", "PRIVATE KEY");
        fs::write(folder.join("key.pem"), key).unwrap();
    }

    fn paths(folder: &Path) -> CertificatePaths {
        CertificatePaths {
            certificate: folder.join("cert.pem"),
            key: folder.join("key.pem"),
            settings: ["TLS_CERT", "TLS_KEY"],
        }
    }

    fn fingerprint(issued: &IssuedCertificate) -> Fingerprint {
        fingerprint_of(&issued.chain[0]).unwrap()
    }

    #[test]
    fn a_new_pair_is_used_and_a_broken_one_keeps_the_old() {
        let folder = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::generate("test").unwrap();
        let [first, second] = ["a.example", "b.example"].map(|name| issue(&authority, name));
        write(folder.path(), &first);
        let opened = CertificateFiles::open(paths(folder.path()), Vec::new(), Alpn::Http2);
        let mut files = opened.unwrap();
        let presented = files.presented();
        assert_eq!(*files.pins().current(), [authority.fingerprint()]);
        // Only one of the two files has arrived.
        write_key(folder.path(), &second);
        files.reload();
        files.reload();
        assert_eq!(presented.borrow().fingerprint, fingerprint(&first));
        write(folder.path(), &second);
        files.reload();
        assert_eq!(presented.borrow().fingerprint, fingerprint(&first), "a tool may be writing");
        files.reload();
        assert_eq!(presented.borrow().fingerprint, fingerprint(&second));
        fs::remove_file(folder.path().join("key.pem")).unwrap();
        files.reload();
        files.reload();
        assert_eq!(presented.borrow().fingerprint, fingerprint(&second));
    }

    #[test]
    fn a_certificate_for_another_name_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::generate("test").unwrap();
        write(folder.path(), &issue(&authority, "a.example"));
        let names = ["a.example", "b.example", "192.0.2.1"].map(str::to_owned).to_vec();
        let files = CertificateFiles::open(paths(folder.path()), names, Alpn::Http2).unwrap();
        assert_eq!(files.missing_names(), ["b.example", "192.0.2.1"]);
    }

    #[test]
    fn unusable_files_are_named_with_their_setting() {
        let folder = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::generate("test").unwrap();
        let check = |expected: &str| {
            let opened = CertificateFiles::open(paths(folder.path()), Vec::new(), Alpn::Http1);
            let error = opened.map(drop).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("BEGIN"), "{error}");
        };
        check("cannot read TLS_CERT=");
        let first = issue(&authority, "a.example");
        write(folder.path(), &first);
        write_key(folder.path(), &issue(&authority, "a.example"));
        check("the key does not belong to the certificate");
        fs::write(folder.path().join("key.pem"), "no key").unwrap();
        check("has no private key in PEM");
        fs::write(folder.path().join("cert.pem"), "no certificate").unwrap();
        check("has no certificate in PEM");
    }

    #[test]
    fn a_chain_without_its_root_has_no_pin() {
        let folder = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::generate("test").unwrap();
        let mut issued = issue(&authority, "a.example");
        issued.chain.truncate(1);
        write(folder.path(), &issued);
        let opened = CertificateFiles::open(paths(folder.path()), Vec::new(), Alpn::Http2);
        assert!(opened.unwrap().pins().current().is_empty());
    }
}
