//! Certificates of agents with unexpected names, dates and issuers. All carry the key of an agent.

use std::sync::Arc;

use anyhow::Context as _;
use filepull_core::fingerprint::Fingerprint;
use filepull_trust::{AgentKey, ServerTrust, client_config, provider};
use rcgen::{CertificateParams, DnType, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

/// The form of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentCertificate {
    /// As a real agent makes it.
    Usual,
    /// Its name is the id of another client.
    NamedAfter(&'static str),
    /// It ended in 1990.
    Expired,
    /// It begins in 2099.
    NotYetValid,
    /// An authority that the server does not know has signed it.
    OtherIssuer,
}

/// Returns the configuration of an agent that trusts `pins` and presents `key` in this certificate.
pub fn config_with(
    pins: &[Fingerprint],
    key: &AgentKey,
    certificate: AgentCertificate,
) -> anyhow::Result<Arc<ClientConfig>> {
    let trust = ServerTrust::Pins(pins.to_vec());
    if certificate == AgentCertificate::Usual {
        return Ok(client_config(&trust, Some(key))?);
    }
    let mut config = (*client_config(&trust, None)?).clone();
    let resolver = SingleCertAndKey::from(Arc::new(certified_key(key, certificate)?));
    config.client_auth_cert_resolver = Arc::new(resolver);
    Ok(Arc::new(config))
}

fn certified_key(key: &AgentKey, form: AgentCertificate) -> anyhow::Result<CertifiedKey> {
    let pem = key.to_pem();
    let pair = KeyPair::from_pem(&pem)?;
    let mut params = CertificateParams::default();
    let name = match form {
        AgentCertificate::NamedAfter(client) => {
            params.subject_alt_names = vec![SanType::DnsName(client.try_into()?)];
            client
        }
        AgentCertificate::Expired => {
            params.not_before = date_time_ymd(1980, 1, 1);
            params.not_after = date_time_ymd(1990, 1, 1);
            "expired"
        }
        AgentCertificate::NotYetValid => {
            params.not_before = date_time_ymd(2099, 1, 1);
            params.not_after = date_time_ymd(2199, 1, 1);
            "not valid yet"
        }
        AgentCertificate::OtherIssuer | AgentCertificate::Usual => "agent",
    };
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate: CertificateDer<'static> = match form {
        AgentCertificate::OtherIssuer => {
            let issuer = KeyPair::generate()?;
            let authority = CertificateParams::new(vec!["authority".to_owned()])?;
            params.signed_by(&pair, &Issuer::new(authority, issuer))?.into()
        }
        AgentCertificate::Usual
        | AgentCertificate::NamedAfter(_)
        | AgentCertificate::Expired
        | AgentCertificate::NotYetValid => params.self_signed(&pair)?.into(),
    };
    let private = PrivateKeyDer::from_pem_slice(pem.as_bytes()).context("a key of an agent")?;
    Ok(CertifiedKey::from_der(vec![certificate], private, &provider())?)
}
