//! The conversions between wire and domain. Text from another machine becomes printable and bounded
//! here, so that no other code has to check it.

use std::time::Duration;

use filepull_core::backoff::ReconnectPolicy;
use filepull_core::base_offer::{BaseOffer, BlockListOffer};
use filepull_core::bounds;
use filepull_core::delta::BlockKey;
use filepull_core::extent::{Content, UploadExtent};
use filepull_core::file_digest::Blake3;
use filepull_core::human;
use filepull_core::problem::{Code, Problem};
use filepull_core::source::Source;

use crate::v1::upload_request::Kind;
use crate::v1::{self, ErrorCode};

/// Maximum length of the message of a [`v1::Error`], in characters. Longer messages exceed header
/// limits.
const MAX_MESSAGE: usize = 512;

/// Maximum length of a file name, in characters: the limit of common file systems.
const MAX_NAME: usize = 255;

impl From<&Source> for v1::SourceInfo {
    fn from(source: &Source) -> Self {
        let Source { name, size, modified_ns } = source.clone();
        Self { name, size, modified_unix_ns: modified_ns, stored: size }
    }
}

impl From<&BaseOffer> for v1::BaseOffer {
    fn from(base: &BaseOffer) -> Self {
        let BaseOffer { len, blake3, blocks } = base;
        Self {
            size: *len,
            blake3: blake3.as_bytes().to_vec().into(),
            block_len: blocks.map_or(0, |blocks| blocks.block_len),
            block_key: blocks
                .map(|blocks| blocks.key.as_bytes().to_vec().into())
                .unwrap_or_default(),
        }
    }
}

/// Returns the base that a server offers; none if it cannot be used. A file can always be sent without
/// a base.
pub fn base_offer(offer: &v1::BaseOffer) -> Option<BaseOffer> {
    let blake3 = Blake3::try_from(offer.blake3.as_ref()).ok()?;
    let random = <[u8; 32]>::try_from(offer.block_key.as_ref()).ok();
    let has_list = random.filter(|_| offer.block_len != 0);
    let blocks = has_list
        .map(|random| BlockListOffer { block_len: offer.block_len, key: BlockKey::new(random) });
    (offer.size != 0).then_some(BaseOffer { len: offer.size, blake3, blocks })
}

impl From<v1::SourceInfo> for Source {
    fn from(info: v1::SourceInfo) -> Self {
        let name = human::printable(&info.name, MAX_NAME);
        Self { name, size: info.size, modified_ns: info.modified_unix_ns }
    }
}

impl From<v1::DefaultFile> for Source {
    fn from(file: v1::DefaultFile) -> Self {
        let name = human::printable(&file.name, MAX_NAME);
        Self { name, size: file.size, modified_ns: file.modified_unix_ns }
    }
}

impl From<ReconnectPolicy> for v1::ReconnectPolicy {
    fn from(policy: ReconnectPolicy) -> Self {
        Self {
            base_ms: millis(policy.base),
            cap_ms: millis(policy.cap),
            spread_ms: millis(policy.spread),
            stable_ms: millis(policy.stable),
        }
    }
}

impl From<v1::ReconnectPolicy> for ReconnectPolicy {
    fn from(policy: v1::ReconnectPolicy) -> Self {
        let time = |ms: u32| Duration::from_millis(ms.into());
        Self {
            base: time(policy.base_ms),
            cap: time(policy.cap_ms),
            spread: time(policy.spread_ms),
            stable: time(policy.stable_ms),
        }
        .clamped()
    }
}

/// Returns the extent that a message of an upload brings; none for its other messages.
pub fn extent(kind: &Kind) -> Option<UploadExtent<'_>> {
    let (offset, content) = match kind {
        Kind::Chunk(chunk) => (chunk.offset, Content::Data(&chunk.data)),
        Kind::Zstd(zstd) => {
            let len = usize::try_from(zstd.len).unwrap_or(usize::MAX);
            (zstd.offset, Content::Zstd { len, encoded: &zstd.data })
        }
        Kind::Hole(hole) => (hole.offset, Content::Hole { len: hole.len }),
        Kind::Copy(copy) => {
            let v1::BaseCopy { offset, base_offset, len } = *copy;
            (offset, Content::Copy { base_offset, len })
        }
        Kind::Header(_) | Kind::Trailer(_) | Kind::Abort(_) => return None,
    };
    Some(UploadExtent { offset, content })
}

/// Returns the earliest and the latest time after which a drained agent dials again.
pub fn drain_times(drain: v1::Drain) -> (Duration, Duration) {
    let time = |ms: u32| Duration::from_millis(ms.into());
    bounds::drain(time(drain.reconnect_min_ms), time(drain.reconnect_max_ms))
}

/// Returns the minimum wait of a rejected agent. With zero the agent decides.
pub fn retry_after(error: &v1::Error) -> Duration {
    bounds::retry_after(Duration::from_millis(error.retry_after_ms.into()))
}

/// Returns a time in milliseconds for the wire. The maximum is 49 days; a longer time becomes that.
pub fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

impl From<&Problem> for v1::Error {
    fn from(problem: &Problem) -> Self {
        Self {
            code: wire_code(problem.code).into(),
            message: problem.detail.chars().take(MAX_MESSAGE).collect(),
            ..Self::default()
        }
    }
}

/// The wire codes for errors of a file: the only ones that an agent may report.
const FILE_ERRORS: std::ops::RangeInclusive<i32> =
    ErrorCode::FileNotFound as i32..=ErrorCode::NotAFile as i32;

/// Returns the problem that an agent reports. The other codes are reserved for the server: from an
/// agent they count as an internal error of the agent.
pub fn reported(error: &v1::Error) -> Problem {
    let is_of_a_file = FILE_ERRORS.contains(&error.code);
    let code = if is_of_a_file { problem_code(error.code()) } else { Code::AgentError };
    Problem::new(code, human::printable(&error.message, MAX_MESSAGE))
}

/// Returns the problem in a server's answer to an upload.
pub fn answered(error: &v1::Error) -> Problem {
    Problem::new(problem_code(error.code()), human::printable(&error.message, MAX_MESSAGE))
}

/// Returns the problem of the catalogue for a wire code.
fn problem_code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::FileNotFound => Code::FileMissing,
        ErrorCode::FileNotShared => Code::PathNotShared,
        ErrorCode::FileTooLarge => Code::FileTooLarge,
        ErrorCode::ReadFailed => Code::FileUnreadable,
        ErrorCode::SourceChanged => Code::FileChanged,
        ErrorCode::NotAFile => Code::NotAFile,
        ErrorCode::ChecksumMismatch => Code::ChecksumMismatch,
        ErrorCode::StorageFull => Code::ServerFull,
        ErrorCode::StorageFailed => Code::StorageFailed,
        ErrorCode::Cancelled => Code::Cancelled,
        ErrorCode::Draining => Code::ServerStopping,
        ErrorCode::Overloaded => Code::ServerBusy,
        ErrorCode::UnknownTransfer => Code::TransferUnknown,
        ErrorCode::Unspecified
        | ErrorCode::Protocol
        | ErrorCode::Unsupported
        | ErrorCode::Unauthenticated
        | ErrorCode::Forbidden
        | ErrorCode::Superseded
        | ErrorCode::DuplicateId
        | ErrorCode::Pending
        | ErrorCode::InviteUnknown
        | ErrorCode::InviteUsed
        | ErrorCode::InviteExpired
        | ErrorCode::IdTaken
        | ErrorCode::OffsetMismatch
        | ErrorCode::Internal => Code::AgentError,
    }
}

/// Returns the wire code for a problem. A problem that is never sent to an agent becomes `INTERNAL`.
fn wire_code(code: Code) -> ErrorCode {
    match code {
        Code::FileMissing => ErrorCode::FileNotFound,
        Code::PathNotShared => ErrorCode::FileNotShared,
        Code::FileTooLarge => ErrorCode::FileTooLarge,
        Code::FileUnreadable => ErrorCode::ReadFailed,
        Code::FileChanged => ErrorCode::SourceChanged,
        Code::NotAFile => ErrorCode::NotAFile,
        Code::ChecksumMismatch => ErrorCode::ChecksumMismatch,
        Code::ServerFull => ErrorCode::StorageFull,
        Code::StorageFailed | Code::RecordsFailed => ErrorCode::StorageFailed,
        Code::Cancelled => ErrorCode::Cancelled,
        Code::ServerStopping => ErrorCode::Draining,
        Code::ServerBusy => ErrorCode::Overloaded,
        Code::TransferUnknown => ErrorCode::UnknownTransfer,
        Code::InvalidRequest
        | Code::SignedOut
        | Code::NotAllowed
        | Code::CrossSiteRequest
        | Code::TooManyRequests
        | Code::ClientUnknown
        | Code::ClientPending
        | Code::ClientExists
        | Code::RotationBlocked
        | Code::TooManyClients
        | Code::ReceiptMissing
        | Code::DownloadDeleted
        | Code::FileUnchanged
        | Code::ClientOffline
        | Code::ClientGone
        | Code::AgentError
        | Code::TransferStalled
        | Code::TransferActive
        | Code::NoSuchUrl
        | Code::MethodNotAllowed
        | Code::RangeNotSatisfiable
        | Code::PreconditionFailed
        | Code::IdempotencyMismatch
        | Code::Other(_)
        | Code::Internal => ErrorCode::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_extent_keeps_its_numbers() {
        let extent_at_1 = |content| Some(UploadExtent { offset: 1, content });
        let chunk = Kind::Chunk(v1::DataChunk { offset: 1, data: "ab".into() });
        assert_eq!(extent(&chunk), extent_at_1(Content::Data(b"ab")));
        let zstd = Kind::Zstd(v1::ZstdChunk { offset: 1, len: 2, data: "cd".into() });
        assert_eq!(extent(&zstd), extent_at_1(Content::Zstd { len: 2, encoded: b"cd" }));
        let hole = Kind::Hole(v1::Hole { offset: 1, len: 2 });
        assert_eq!(extent(&hole), extent_at_1(Content::Hole { len: 2 }));
        let copy = Kind::Copy(v1::BaseCopy { offset: 1, base_offset: 2, len: 3 });
        assert_eq!(extent(&copy), extent_at_1(Content::Copy { base_offset: 2, len: 3 }));
        assert_eq!(extent(&Kind::Trailer(v1::UploadTrailer::default())), None);
    }

    #[test]
    fn an_agent_can_report_errors_of_a_file_only() {
        for number in 0..=100 {
            let code = reported(&v1::Error { code: number, ..v1::Error::default() }).code;
            assert_eq!(code != Code::AgentError, (20..=25).contains(&number), "{number}: {code}");
        }
        for &code in Code::ALL {
            let error = v1::Error::from(&Problem::new(code, "why"));
            let is_sent = wire_code(code) != ErrorCode::Internal;
            // For an agent the records are part of the server's storage.
            let code = if code == Code::RecordsFailed { Code::StorageFailed } else { code };
            assert_eq!(answered(&error).code, if is_sent { code } else { Code::AgentError });
            let of_the_file = (20..=25).contains(&error.code);
            assert_eq!(reported(&error).code, if of_the_file { code } else { Code::AgentError });
        }
    }

    #[test]
    fn text_from_another_machine_is_bounded_and_printable() {
        let error = v1::Error { message: "x\n".repeat(9999), ..v1::Error::default() };
        let detail = reported(&error).detail;
        assert_eq!(detail.chars().count(), MAX_MESSAGE);
        assert!(!detail.contains('\n'));
    }
}
