//! The agent's side of TLS: which server it trusts, and the key that it presents.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use filepull_core::fingerprint::Fingerprint;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

use crate::agent_key::AgentKey;
use crate::certificate::fingerprint_of;
use crate::pinned_server::PinnedServer;
use crate::provider::provider;
use crate::root_server::RootServer;

/// Which server an agent trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerTrust {
    /// A server whose certificate is signed by one of these keys. Dates and names decide nothing.
    Pins(Vec<Fingerprint>),
    /// A server whose certificate is valid for its name, now, under a root of the system.
    Roots {
        /// A file with more root certificates in PEM.
        ca_file: Option<PathBuf>,
    },
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The list of pins is empty, so no server could be accepted.
    #[error("no pin of a certificate authority")]
    NoPins,
    /// Neither the system nor the file has a root certificate.
    #[error("this machine has no root certificates: install ca-certificates, or set CA_FILE")]
    NoRoots,
    /// The file cannot be read.
    #[error("cannot read CA_FILE={}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file has no certificate, or an invalid one.
    #[error("CA_FILE={} has no valid root certificate in PEM", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
    },
}

/// Returns the configuration for connections to a server: TLS 1.3 with ALPN `h2`, and the key of the
/// agent if it has one.
///
/// Reads the roots of the system, if the trust is in them.
///
/// # Errors
/// There is no root or pin, or `ca_file` cannot be used.
pub fn client_config(
    trust: &ServerTrust,
    key: Option<&AgentKey>,
) -> Result<Arc<ClientConfig>, TrustError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider supports TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier(trust)?);
    let mut config = match key {
        Some(key) => {
            let resolver = SingleCertAndKey::from(key.certified_key());
            builder.with_client_cert_resolver(Arc::new(resolver))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Two connections to one server.
    config.resumption = Resumption::in_memory_sessions(2);
    Ok(Arc::new(config))
}

fn verifier(trust: &ServerTrust) -> Result<Arc<dyn ServerCertVerifier>, TrustError> {
    match trust {
        ServerTrust::Pins(pins) if pins.is_empty() => Err(TrustError::NoPins),
        ServerTrust::Pins(pins) => Ok(Arc::new(PinnedServer::new(pins.clone()))),
        ServerTrust::Roots { ca_file } => {
            let roots = Arc::new(roots(ca_file.as_deref())?);
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
            Ok(Arc::new(RootServer { verifier: verifier.map_err(|_| TrustError::NoRoots)? }))
        }
    }
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    // One unreadable file among many is no reason to trust none.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let invalid = || TrustError::NotPem { path: path.to_owned() };
        let found = certificates_in(path)?;
        for certificate in found {
            roots.add(certificate).map_err(|_| invalid())?;
        }
    }
    if roots.is_empty() { Err(TrustError::NoRoots) } else { Ok(roots) }
}

/// Returns whether the key of a certificate is a root of this system. Reads the roots.
pub fn is_system_root(certificate: &CertificateDer<'_>) -> bool {
    let Ok(wanted) = fingerprint_of(certificate) else { return false };
    let roots = rustls_native_certs::load_native_certs().certs;
    roots.iter().any(|root| fingerprint_of(root).is_ok_and(|found| found == wanted))
}

fn certificates_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let unreadable = |source| TrustError::Unreadable { path: path.to_owned(), source };
    let invalid = || TrustError::NotPem { path: path.to_owned() };
    let text = std::fs::read(path).map_err(unreadable)?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(invalid)
}
