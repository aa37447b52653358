//! Protobuf from the network, through the conversions and into the core: an agent that lies about its
//! upload, and messages of either side with any content.

use filepull_core::backoff::ReconnectPolicy;
use filepull_core::digest::Digest;
use filepull_core::extent::{ExtentReceiver, Fill};
use filepull_core::file_digest::{Blake3, FileDigests};
use filepull_core::receive::Receiver;
use filepull_core::source::Source;
use filepull_core::{bounds, human};
use filepull_proto::v1::upload_request::Kind;
use filepull_proto::{answered, drain_times, extent, reported, retry_after, v1};
use prost::Message as _;

/// Decodes each message of the input as every kind that a peer may send.
pub fn messages(data: &[u8]) {
    let mut upload = FuzzUpload::default();
    for message in crate::split(data) {
        if let Ok(request) = v1::UploadRequest::decode(message) {
            upload.receive(request);
        }
        if let Ok(message) = v1::AgentMessage::decode(message) {
            from_agent(message);
        }
        if let Ok(message) = v1::ServerMessage::decode(message) {
            from_server(message);
        }
    }
}

/// The last download of the client.
const BASE: &[u8] = b"the last download";

/// Maximum length of a file: a few holes of the maximum length fit.
const MAX_FILE_LEN: u64 = 4 << 20;

/// What the core has accepted of an upload.
#[derive(Default)]
struct FuzzUpload {
    receiver: Option<ExtentReceiver>,
    bytes: Vec<u8>,
}

impl FuzzUpload {
    fn receive(&mut self, request: v1::UploadRequest) {
        match request.kind {
            Some(Kind::Header(header)) => {
                let source = Source::from(header.source.unwrap_or_default());
                check_source(&source);
                self.bytes.clear();
                // A file that has no more zeros than memory.
                let receiver = Receiver::new(source.size.min(MAX_FILE_LEN));
                self.receiver = Some(ExtentReceiver::new(receiver, BASE.len() as u64));
            }
            Some(kind @ (Kind::Chunk(_) | Kind::Zstd(_) | Kind::Hole(_) | Kind::Copy(_))) => {
                self.receive_extent(&kind);
            }
            Some(Kind::Trailer(trailer)) => {
                let Ok(digest) = Blake3::try_from(&trailer.blake3[..]) else { return };
                let Some(receiver) = &self.receiver else { return };
                let receiver = receiver.receiver();
                if let Ok(proof) =
                    receiver.finish(trailer.total_size, digest, Digest::of(&self.bytes))
                {
                    assert_eq!(proof.size(), self.bytes.len() as u64);
                    assert_eq!(proof.digests(), FileDigests::of(&self.bytes));
                }
            }
            Some(Kind::Abort(error)) => check_error(&error),
            None => {}
        }
    }

    fn receive_extent(&mut self, kind: &Kind) {
        let Some(receiver) = &mut self.receiver else { return };
        let Some(extent) = extent(kind) else { return };
        match receiver.next(extent) {
            Ok(Fill::Bytes(bytes)) => self.bytes.extend_from_slice(bytes),
            Ok(Fill::Zeros(len)) => {
                let len = usize::try_from(len).unwrap();
                self.bytes.resize(self.bytes.len() + len, 0);
            }
            Ok(Fill::Base(range)) => {
                let start = usize::try_from(range.base_offset()).unwrap();
                let bytes = &BASE[start..][..usize::try_from(range.n_bytes()).unwrap()];
                receiver.base_bytes(&range, bytes).unwrap();
                self.bytes.extend_from_slice(bytes);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        assert_eq!(receiver.receiver().received(), self.bytes.len() as u64);
    }
}

fn from_agent(message: v1::AgentMessage) {
    use v1::agent_message::Kind::{Hello, Transfer};
    use v1::transfer_update::State;
    match message.kind {
        Some(Hello(hello)) => {
            if let Some(file) = hello.default_file {
                check_source(&file.into());
            }
            if let Some(error) = hello.default_file_error {
                check_error(&error);
            }
        }
        Some(Transfer(update)) => match update.state {
            Some(State::Accepted(accepted)) => {
                check_source(&accepted.source.unwrap_or_default().into());
            }
            Some(State::Unchanged(unchanged)) => {
                check_source(&unchanged.source.unwrap_or_default().into());
            }
            Some(State::Failed(error)) => check_error(&error),
            None => {}
        },
        _ => {}
    }
}

fn from_server(message: v1::ServerMessage) {
    use v1::server_message::Kind::{Drain, End, Welcome};
    match message.kind {
        Some(Welcome(welcome)) => {
            let policy = ReconnectPolicy::from(welcome.reconnect.unwrap_or_default());
            assert!(policy.cap <= bounds::MAX_AWAY);
            assert!(1 <= bounds::chunk_len(welcome.max_chunk_bytes));
            let (heartbeat, dead_after) =
                bounds::heartbeats(welcome.heartbeat_ms, welcome.dead_after_ms);
            assert!(heartbeat * 2 <= dead_after);
        }
        Some(Drain(drain)) => {
            let (min, max) = drain_times(drain);
            assert!(min <= max && max <= bounds::MAX_AWAY);
        }
        Some(End(end)) => check_error(&end.error.unwrap_or_default()),
        _ => {}
    }
}

fn check_source(source: &Source) {
    assert_eq!(source.name, human::printable(&source.name, 255));
    assert!(source.modified_at().is_none_or(|at| at.timestamp() != i64::MAX));
}

fn check_error(error: &v1::Error) {
    assert!(retry_after(error) <= bounds::MAX_AWAY);
    for problem in [answered(error), reported(error)] {
        assert!(!problem.detail.chars().any(human::is_unprintable), "{problem:?}");
    }
}
