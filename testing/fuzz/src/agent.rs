//! An agent with a hostile server: any sequence of messages of a session. The agent stays available, and no
//! byte of a file that is not shared leaves it.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::{Mutex, OnceLock, PoisonError};

use filepull_agent::share::Shares;
use filepull_core::extent::{ExtentReceiver, Fill};
use filepull_core::receive::Receiver;
use filepull_proto::v1;
use filepull_proto::v1::agent_message::Kind as ToServer;
use filepull_proto::v1::server_message::Kind as FromServer;
use filepull_proto::v1::upload_request::Kind;
use filepull_proto::v1::upload_response;
use prost::Message as _;
use tempfile::TempDir;

use crate::runtime;

#[path = "../../../crates/agent/tests/fake/mod.rs"]
mod fake;

use fake::{FakeServer, FakeSession, soon};

/// The content of the files that are shared.
const SHARED: &[u8] = b"shared content";

/// The content of the file that is not shared.
const CANARY: &[u8] = b"CANARY-2b7e151628aed2a6";

/// An agent, its server, and the folder of both kinds of files.
struct AgentFixture {
    server: FakeServer,
    session: FakeSession,
    _folder: TempDir,
}

/// Sends each message of the input to an agent that is connected.
pub fn agent(data: &[u8]) {
    static FIXTURE: OnceLock<Mutex<AgentFixture>> = OnceLock::new();
    let shared = FIXTURE.get_or_init(|| Mutex::new(runtime().block_on(AgentFixture::start())));
    let mut fixture = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let decoded = crate::split(data).into_iter().map(v1::ServerMessage::decode);
    let messages = decoded.filter_map(Result::ok);
    runtime().block_on(fixture.send(messages.filter(keeps_the_session).collect()));
}

/// A session that ends costs the fuzzer a pause. The times in these messages are checked by the target
/// `messages`.
fn keeps_the_session(message: &v1::ServerMessage) -> bool {
    !matches!(message.kind, Some(FromServer::End(_) | FromServer::Drain(_)))
}

impl AgentFixture {
    async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let shared = folder.path().join("shared");
        fs::create_dir_all(shared.join("logs")).unwrap();
        fs::write(folder.path().join("canary"), CANARY).unwrap();
        for name in ["data.txt", "logs/a.log"] {
            fs::write(shared.join(name), SHARED).unwrap();
        }
        symlink(folder.path().join("canary"), shared.join("logs/link.log")).unwrap();
        let shares = Shares::new(&shared.join("data.txt"), ["logs/*.log"]).unwrap();
        let mut server = FakeServer::start_with(|config| config.shares = shares).await;
        let (session, _) = server.open_session().await;
        Self { server, session, _folder: folder }
    }

    async fn send(&mut self, messages: Vec<v1::ServerMessage>) {
        for message in messages {
            self.session.send_raw(message).await;
        }
        let ping = v1::Ping { seq: 7_777_777, sent_unix_us: 9 };
        self.session.send(FromServer::Ping(ping)).await;
        let pong = ToServer::Pong(v1::Pong { seq: 7_777_777, echo_unix_us: 9 });
        loop {
            while let Some(upload) = self.server.try_upload() {
                runtime().spawn(check_upload(upload));
            }
            match self.session.receive().await {
                Some(message) if message == pong => return,
                Some(message) => check(format!("{message:?}").as_bytes()),
                None => panic!("the session ended"),
            }
        }
    }
}

/// Receives an upload to its end, which comes before its header if the next message cancels it.
async fn check_upload(mut upload: fake::FakeUpload) {
    soon(async {
        let Some(Kind::Header(header)) = upload.next().await else { return };
        let size = header.source.map_or(0, |source| source.size);
        let mut receiver = Receiver::new(size);
        let prefix = &SHARED[..usize::try_from(header.offset).unwrap()];
        receiver.chunk(0, prefix).unwrap();
        let mut extents = ExtentReceiver::new(receiver, u64::MAX);
        while let Some(kind) = upload.next().await {
            let Some(extent) = filepull_proto::extent(&kind) else { break };
            match extents.next(extent) {
                Ok(Fill::Bytes(bytes)) => check(bytes),
                Ok(Fill::Zeros(_)) => {}
                Ok(Fill::Base(range)) => {
                    let zeros = vec![0; usize::try_from(range.n_bytes()).unwrap()];
                    extents.base_bytes(&range, &zeros).unwrap();
                }
                Err(error) => panic!("a server would reject this extent: {error}"),
            }
        }
        let _ = upload.answer.send(Ok(stored())).await;
    })
    .await;
}

fn stored() -> v1::UploadResponse {
    v1::UploadResponse { kind: Some(upload_response::Kind::Stored(v1::Stored::default())) }
}

fn check(bytes: &[u8]) {
    assert!(!bytes.windows(CANARY.len()).any(|part| part == CANARY), "a file that is not shared");
}
