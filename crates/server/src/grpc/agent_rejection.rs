//! Reports an agent that is rejected because of its key, its invite or its id: in the log, and in the audit
//! before the agent gets its answer.

use std::net::SocketAddr;

use filepull_core::audit::AuditAction;
use filepull_proto::v1::{Error, ErrorCode};

use super::Gateway;
use super::authentication::PeerRejection;
use crate::records::Actor;

impl Gateway {
    /// Reports an agent whose key does not admit it. `client` is as the agent sent it; empty if it did
    /// not.
    pub(crate) async fn report_peer(
        &self,
        client: &str,
        remote_addr: Option<SocketAddr>,
        rejected: &PeerRejection,
    ) {
        self.rejections.peer(client, remote_addr, rejected);
        // A pending agent is expected to try again until it is approved; its enrolment is on record.
        if !matches!(rejected, PeerRejection::Pending { .. }) {
            self.audit_rejection(client, remote_addr, rejected.keyword()).await;
        }
    }

    /// Reports an agent that was not enrolled.
    pub(crate) async fn report_enrolment(
        &self,
        client: &str,
        remote_addr: Option<SocketAddr>,
        rejected: &Error,
    ) {
        self.rejections.enrolment(client, remote_addr, rejected);
        self.audit_rejection(client, remote_addr, rejected.code().as_str_name()).await;
    }

    /// Reports a session that was not admitted for another reason than the key of the agent.
    pub(crate) async fn report_session(
        &self,
        client: &str,
        instance: &[u8],
        remote_addr: SocketAddr,
        rejected: &Error,
    ) {
        let is_logged = self.rejections.session(client, instance, remote_addr, rejected);
        if is_logged && rejected.code() == ErrorCode::DuplicateId {
            let code = rejected.code().as_str_name();
            self.audit_rejection(client, Some(remote_addr), code).await;
        }
    }

    async fn audit_rejection(&self, client: &str, remote_addr: Option<SocketAddr>, reason: &str) {
        let ip = remote_addr.map(|addr| addr.ip().to_canonical());
        let address = ip.map(|ip| ip.to_string()).unwrap_or_default();
        // The id is a claim, so the address is the actor.
        let agent = Actor { name: address.clone(), address, request_id: None };
        let entry = agent.did(AuditAction::AgentRejected, client).with("reason", reason);
        self.audit.record(entry).await;
    }
}
