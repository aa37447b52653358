//! An order, parsed from the wire.

use bytes::Bytes;
use filepull_core::base_offer::BaseOffer;
use filepull_core::file_digest::Blake3;
use filepull_core::id::TransferId;
use filepull_core::path::SharedPath;
use filepull_core::problem::{Code, Problem};
use filepull_core::receive::Prefix;
use filepull_core::{bounds, human};
use filepull_proto::v1;

/// The instruction to send one file.
#[derive(Clone, Debug)]
pub(crate) struct SendOrder {
    pub(crate) transfer: TransferId,
    /// The number of the attempt, returned to the server with every answer.
    pub(crate) attempt: u32,
    /// Without a path the default file is sent.
    pub(crate) path: Option<SharedPath>,
    /// The bytes that the server already has.
    pub(crate) resume: Option<Prefix>,
    /// What the server has of an earlier version of the file.
    pub(crate) base: Option<BaseOffer>,
    /// A file that equals the base is not sent.
    pub(crate) if_changed: bool,
    /// Returned in the header of the upload: it proves that the upload belongs to this order.
    pub(crate) token: Bytes,
    /// The limit of the server, in bytes per second.
    pub(crate) max_rate: Option<u64>,
    /// The limit of the server, in bytes.
    pub(crate) max_size: Option<u64>,
    /// The operator, for the log; printable.
    pub(crate) requested_by: String,
}

impl TryFrom<v1::StartTransfer> for SendOrder {
    type Error = Problem;

    fn try_from(start: v1::StartTransfer) -> Result<Self, Problem> {
        let path = match start.path.as_str() {
            "" => None,
            path => Some(SharedPath::parse(path).map_err(|error| {
                Problem::new(Code::PathNotShared, human::printable(&error.to_string(), 200))
            })?),
        };
        let resume = match Blake3::try_from(&start.prefix_blake3[..]) {
            Ok(digest) if start.offset != 0 => Some(Prefix { len: start.offset, digest }),
            // Without a digest the prefix cannot be compared. Sending from the start is always
            // right.
            _ => None,
        };
        let transfer = TransferId::parse(&start.transfer_id)
            .map_err(|error| Problem::new(Code::AgentError, error.to_string()))?;
        Ok(Self {
            transfer,
            attempt: start.attempt,
            path,
            resume,
            base: start.base.as_ref().and_then(filepull_proto::base_offer),
            if_changed: start.if_changed,
            token: start.upload_token,
            max_rate: bounds::upload_rate(start.max_bytes_per_s),
            // On the wire zero is no limit.
            max_size: (start.max_size != 0).then_some(start.max_size),
            requested_by: human::printable(&start.requested_by, 80),
        })
    }
}

impl SendOrder {
    /// Returns `(transfer 0190…, requested by ops)`, for the log.
    pub(crate) fn about(&self) -> String {
        match self.requested_by.as_str() {
            "" => format!("(transfer {})", self.transfer),
            operator => format!("(transfer {}, requested by {operator})", self.transfer),
        }
    }
}
