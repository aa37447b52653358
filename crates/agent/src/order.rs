//! An order as the agent means it, parsed once from the wire.

use bytes::Bytes;
use filepull_core::digest::Digest;
use filepull_core::id::TransferId;
use filepull_core::path::SharedPath;
use filepull_core::problem::{Code, Problem};
use filepull_core::receive::Prefix;
use filepull_core::{bounds, human};
use filepull_proto::v1;

/// Send this file.
#[derive(Clone, Debug)]
pub(crate) struct SendOrder {
    pub(crate) transfer: TransferId,
    /// Told back to the server, which counts them.
    pub(crate) attempt: u32,
    /// None is the default file.
    pub(crate) path: Option<SharedPath>,
    /// What the server holds already.
    pub(crate) resume: Option<Prefix>,
    /// Echoed, so that the server knows whose bytes come.
    pub(crate) token: Bytes,
    /// Bytes per second.
    pub(crate) max_rate: Option<u64>,
    pub(crate) max_size: Option<u64>,
    /// For the log; printable.
    pub(crate) requested_by: String,
}

impl TryFrom<v1::StartTransfer> for SendOrder {
    type Error = Problem;

    fn try_from(start: v1::StartTransfer) -> Result<Self, Problem> {
        let bad = |error: String| Problem::new(Code::AgentError, error);
        let path = match start.path.as_str() {
            "" => None,
            path => Some(SharedPath::parse(path).map_err(|error| {
                Problem::new(Code::PathNotShared, human::printable(&error.to_string(), 200))
            })?),
        };
        let resume = match Digest::try_from(&start.prefix_sha256[..]) {
            Ok(digest) if start.offset != 0 => Some(Prefix { len: start.offset, digest }),
            // Without proof there is nothing to compare: from the start, which is always right.
            _ => None,
        };
        Ok(Self {
            transfer: TransferId::parse(&start.transfer_id).map_err(|e| bad(e.to_string()))?,
            attempt: start.attempt,
            path,
            resume,
            token: start.upload_token,
            max_rate: bounds::upload_rate(start.max_bytes_per_s),
            max_size: limit(start.max_size),
            requested_by: human::printable(&start.requested_by, 80),
        })
    }
}

/// On the wire zero is no limit.
fn limit(number: u64) -> Option<u64> {
    (number != 0).then_some(number)
}

impl SendOrder {
    /// `(transfer 0190…, asked by ops)`, for the log.
    pub(crate) fn about(&self) -> String {
        match self.requested_by.as_str() {
            "" => format!("(transfer {})", self.transfer),
            who => format!("(transfer {}, asked by {who})", self.transfer),
        }
    }
}
