//! Which HTTPS servers an operator's command trusts: the roots of the system, and one more if named.

use std::path::Path;
use std::sync::Arc;

use filepull_core::human;
use filepull_trust::{ServerTrust, TrustError};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

use crate::api::CommandError;

/// Returns the TLS settings of an HTTPS connection: one TLS stack, with the provider of
/// `filepull-trust`.
pub(crate) fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, CommandError> {
    let trust = ServerTrust::Roots { ca_file: ca_file.map(Path::to_owned) };
    let shared = filepull_trust::client_config(&trust, None).map_err(|error| explained(&error))?;
    let mut config = Arc::unwrap_or_clone(shared);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Returns TLS settings that trust no server, for plain HTTP: without them reqwest would read the roots of the
/// system, and fail on a machine without roots.
pub(crate) fn unused_config() -> anyhow::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(filepull_trust::provider());
    let tls13 = builder.with_protocol_versions(&[&TLS13])?;
    Ok(tls13.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn explained(error: &TrustError) -> CommandError {
    CommandError::usage(match error {
        TrustError::Unreadable { path, source } => {
            format!("reading the root certificate {}: {source}", path.display())
        }
        TrustError::NotPem { path } => {
            format!("{} has no valid root certificate in PEM", path.display())
        }
        TrustError::NoRoots => {
            "this machine has no root certificates: install ca-certificates, or name a root \
                                with --ca-file"
                .to_owned()
        }
        TrustError::NoPins => human::chain(error),
    })
}
