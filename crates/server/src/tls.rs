//! TLS of both listeners: the server's own certificate authority or the files of the operator, the
//! handshake, and the rotation of the authority.
//!
//! Dates decide nothing for an agent that pins the authority. They matter to operators who use HTTPS, and
//! to agents that trust the roots of their system.

mod acceptor;
mod authority_folder;
mod ca_rotation;
mod certificate;
mod certificate_files;
mod expiry;
mod files;
mod own_authority;
mod pins;
mod protocol_log;
mod read_ahead;
mod rotation;
mod server_tls;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use acceptor::{HANDSHAKE_BYTE, HandshakeError, TlsAcceptor};
pub(crate) use ca_rotation::{CaRotation, RotationError, RotationStatus, WithoutPin};
pub(crate) use certificate::Expiry;
pub(crate) use certificate_files::CertificatePaths;
pub(crate) use expiry::{CertificateView, TlsStatus};
pub(crate) use own_authority::{AuthorityFacts, OwnAuthorityError, RotationStep};
pub(crate) use pins::CaPins;
pub(crate) use protocol_log::ProtocolLog;
pub(crate) use rotation::RotationState;
pub(crate) use server_tls::{AgentTls, ServerTls, TlsSources};
pub(crate) use stream::PeerStream;

/// The folder of the authority, beside the records.
pub(crate) const TLS_FOLDER: &str = "tls";

/// Logs something that an operator should change.
fn warn_of(text: &str) {
    tracing::warn!(event = "config.warning", "{text}");
}
