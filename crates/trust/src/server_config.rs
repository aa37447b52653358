//! The server's side of TLS.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WantsServerCert};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ConfigBuilder, DigitallySignedStruct, DistinguishedName, Error,
    PeerIncompatible, ServerConfig, SignatureScheme,
};

use crate::agent_key::raw_ed25519;
use crate::certificate::parse;
use crate::provider::provider;

/// Whether clients may present a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKeys {
    /// A client may present any Ed25519 key and proves that it has it. The handler judges the key.
    Accept,
    /// No client is asked for a key.
    None,
}

/// Returns the configuration of a listener: TLS 1.3 only, with session tickets.
///
/// # Errors
/// The key does not fit the first certificate of the chain, or is not supported.
pub fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    alpn: &[&[u8]],
    client_keys: ClientKeys,
) -> Result<Arc<ServerConfig>, Error> {
    let mut config = builder(client_keys).with_single_cert(chain, key)?;
    config.alpn_protocols = alpn.iter().map(|&protocol| protocol.to_vec()).collect();
    config.ticketer = Ticketer::new()?;
    // Tickets hold the state, so the server needs no memory for it. Each connection gets another one.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

fn builder(client_keys: ClientKeys) -> ConfigBuilder<ServerConfig, WantsServerCert> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider supports TLS 1.3");
    match client_keys {
        ClientKeys::Accept => {
            let algorithms = provider().signature_verification_algorithms;
            builder.with_client_cert_verifier(Arc::new(AnyAgentKey { algorithms }))
        }
        ClientKeys::None => builder.with_no_client_auth(),
    }
}

/// Accepts every self-made certificate with an Ed25519 key.
#[derive(Debug)]
struct AnyAgentKey {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyAgentKey {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let certificate = parse(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        match raw_ed25519(certificate.public_key().raw) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
