//! Keys, certificates, pins and TLS: how agents and the server prove who they are.
//!
//! Identity is a key. The agent's certificate only carries its Ed25519 key: names, dates and issuers
//! decide nothing. The agent in turn checks the server against the pinned key of its certificate
//! authority, or against the roots of the system.
//!
//! Reading order: [`provider`], [`AgentKey`], [`client_config`], `pinned_server`, [`server_config`],
//! [`CertificateAuthority`], [`jws`], [`receipt`].
//!
//! This crate opens no connection. It reads files only for the roots of the system and `CA_FILE`.

pub mod jws;
pub mod receipt;

mod agent_key;
mod authority;
mod certificate;
mod client_config;
mod pinned_server;
mod provider;
mod rejection;
mod root_server;
mod server_config;

pub use crate::agent_key::{
    AgentKey, AgentKeyError, SignatureError, new_key_message, verify_signature,
};
pub use crate::authority::{AuthorityError, CertificateAuthority, IssuedCertificate};
pub use crate::certificate::{
    CertificateError, fingerprint_of, is_self_issued, issuer_of, validity_of,
};
pub use crate::client_config::{ServerTrust, TrustError, client_config, is_system_root};
pub use crate::provider::{install_provider, provider};
pub use crate::rejection::{ServerRejection, server_rejection, tls_error};
pub use crate::server_config::{ClientKeys, server_config};

#[cfg(test)]
mod tests;
