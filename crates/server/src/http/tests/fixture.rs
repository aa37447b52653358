//! The server that the tests of `http` send requests to.

use std::collections::HashMap;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use chrono::Utc;
use clap::Parser as _;
use filepull_core::digest::Digest;
use filepull_core::extent::ExtentKinds;
use filepull_core::file_digest::FileDigests;
use filepull_core::id::ClientId;
use filepull_core::invite::ServerAddress;
use filepull_core::name::DownloadName;
use filepull_core::path::SharedPath;
use filepull_core::problem::{Code, Problem};
use filepull_core::source::Source;
use filepull_core::transfer::{Download, LastProgress, Phase, Published, Transfer};
use filepull_process::Lifecycle;
use serde_json::Value;
use tower::ServiceExt as _;

use super::super::{About, App, AppParts, Gate, router};
use crate::access::{Token, Tokens, TokensKeeper, tokens_file};
use crate::client::{AgentInfo, Greeting};
use crate::client_admin::ClientAdmin;
use crate::config::{AgentAccess, Args, Config};
use crate::data_folder::RECORDS_FOLDER;
use crate::disk_sampler::DiskSampler;
use crate::known_clients::KnownClients;
use crate::records::{Records, Total, TransferFilter};
use crate::registry::Registry;
use crate::rejection_audit::RejectionAudit;
use crate::store::Store;
use crate::tls::{CaPins, TlsStatus};
use crate::transfers::Transfers;
use crate::transfers::tests::LIMITS;

/// A server without agents and without a network. `client4` is known and offline.
pub(super) struct HttpFixture {
    pub(super) app: App,
    pub(super) folder: tempfile::TempDir,
    secrets: HashMap<String, String>,
    _tokens: Option<(tempfile::NamedTempFile, TokensKeeper)>,
}

pub(super) struct TestResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl TestResponse {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

impl HttpFixture {
    pub(super) async fn start() -> Self {
        Self::with(None).await
    }

    /// Starts a server that asks for tokens. A token is its name, its role and its labels.
    pub(super) async fn with_tokens(tokens: &[(&str, &str, &str)]) -> Self {
        let mut secrets = HashMap::new();
        let mut text = String::new();
        for (name, role, labels) in tokens {
            let token = Token::generate().unwrap();
            let digest = token.digest();
            text.push_str(&format!("token {name} {role} {labels} sha256={digest}\n"));
            secrets.insert((*name).to_owned(), token.secret().to_owned());
        }
        text.push_str("user alice@example.com viewer\n");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        let read = tokens_file::read(file.path()).unwrap().unwrap();
        let keeper = TokensKeeper::new(file.path().to_owned(), read);
        let fixture = Self::with(Some(keeper.tokens())).await;
        Self { secrets, _tokens: Some((file, keeper)), ..fixture }
    }

    pub(super) fn tokens(&self) -> Option<Tokens> {
        self._tokens.as_ref().map(|(_, keeper)| keeper.tokens())
    }

    pub(super) fn token(&self, name: &str) -> String {
        self.secrets[name].clone()
    }

    async fn with(tokens: Option<Tokens>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(&folder.path().join(RECORDS_FOLDER)).await.unwrap();
        records.client_connected(&greeting("client4"), u64::MAX, Utc::now()).await.unwrap();
        let registry = Registry::new();
        let clients = KnownClients::new(registry.clone(), records.clone());
        let store = Store::open(folder.path()).unwrap();
        let lifecycle = Lifecycle::new();
        let disk = DiskSampler::start(store.clone(), &lifecycle);
        let transfers = Transfers::start(
            records.clone(),
            registry.clone(),
            store.clone(),
            disk,
            lifecycle.clone(),
            LIMITS,
        )
        .await
        .unwrap();
        let about = About {
            version: "1.4.0",
            started_at: Utc::now(),
            http_addr: ([127, 0, 0, 1], 8080).into(),
            grpc_addr: ([127, 0, 0, 1], 50051).into(),
            data_dir: "./server-data".to_owned(),
            settings: Vec::new(),
        };
        let rejections = RejectionAudit::new(records.clone(), lifecycle.clone());
        let access = config().access;
        let admin = ClientAdmin {
            records: records.clone(),
            registry,
            clients: clients.clone(),
            transfers: transfers.clone(),
            ca_pins: CaPins::none(),
            addresses: Arc::new([ServerAddress::parse("pull.example.com").unwrap()]),
            max_clients: 1000,
            access: AgentAccess::Enrolled,
        };
        let parts = AppParts {
            gate: Gate::new(&access, tokens),
            trigger_get: access.trigger_get,
            transfers,
            clients,
            admin,
            records,
            rejections,
            store,
            rotation: None,
            tls: TlsStatus::default(),
            lifecycle,
            about,
        };
        Self { app: parts.into(), folder, secrets: HashMap::new(), _tokens: None }
    }

    /// Returns the parts of the server, to change one before the first request.
    pub(super) fn parts(&mut self) -> &mut AppParts {
        Arc::get_mut(&mut self.app.0).unwrap()
    }

    /// Records a client that is offline.
    pub(super) async fn know_client(&self, id: &str) {
        self.app.records.client_connected(&greeting(id), u64::MAX, Utc::now()).await.unwrap();
    }

    /// Sets the labels of a client, as its enrolment does.
    pub(super) fn label_client(&self, id: &str, labels: &str) {
        let file = self.folder.path().join(RECORDS_FOLDER).join("records.db");
        let database = rusqlite::Connection::open(file).unwrap();
        let sql = "INSERT INTO client_keys (client, fingerprint, pending, labels, invite, enrolled_at, \
             enrolled_from, rotated_at, pins) VALUES ($1, $2, 0, $3, '', 0, '203.0.113.7', 0, '[]') \
             ON CONFLICT (client) DO UPDATE SET labels = $3";
        database.execute(sql, (id, Digest::of(id.as_bytes()).to_string(), labels)).unwrap();
    }

    pub(super) async fn send(&self, request: Request<Body>) -> TestResponse {
        let response = router(self.app.clone()).oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        let body = String::from_utf8(bytes.to_vec()).unwrap();
        TestResponse { status: head.status, headers: head.headers, body }
    }

    pub(super) async fn request(&self, method: Method, url: &str) -> TestResponse {
        let request = Request::builder().method(method).uri(url).header("host", "pull:80");
        self.send(request.body(Body::empty()).unwrap()).await
    }

    pub(super) async fn get(&self, url: &str) -> TestResponse {
        self.request(Method::GET, url).await
    }

    /// Records a failed transfer of a client.
    pub(super) async fn store_failure(&self, id: &str) {
        let client = ClientId::parse(id).unwrap();
        let mut transfer = Transfer::new(client, None, "test".to_owned(), Utc::now());
        let problem = Problem::new(Code::FileMissing, "There is no file.");
        transfer.fail(problem, LastProgress::default(), Utc::now()).unwrap();
        self.app.records.save(&transfer).await.unwrap();
    }

    /// Stores a finished transfer of the default file with the bytes `test`.
    pub(super) async fn store_download(&self) -> Transfer {
        self.store_download_as(None, b"test").await
    }

    /// Stores a finished transfer, in the records and on the disk.
    pub(super) async fn store_download_as(&self, path: Option<&str>, bytes: &[u8]) -> Transfer {
        let path = path.map(|path| SharedPath::parse(path).unwrap());
        let mut transfer = Transfer::new(client4(), path, "test".to_owned(), Utc::now());
        let folder = self.folder.path().join(transfer.client.as_str());
        std::fs::create_dir_all(&folder).unwrap();
        let mut name = DownloadName::new(transfer.created_at, "data.txt");
        let file = loop {
            match std::fs::File::create_new(folder.join(name.to_string())) {
                Ok(file) => break file,
                Err(_) => name = name.next(),
            }
        };
        (&file).write_all(bytes).unwrap();
        let size = bytes.len() as u64;
        let source = Source { name: "data.txt".to_owned(), size, modified_ns: 0 };
        let digests = FileDigests::of(bytes);
        let inode = file.metadata().unwrap().ino();
        let download = Download { source, name, size, digests, inode };
        transfer.phase = Phase::Done(Published::from_record(download));
        transfer.finished_at = Some(Utc::now());
        self.app.records.save(&transfer).await.unwrap();
        transfer
    }

    pub(super) async fn n_transfers(&self) -> u64 {
        match self.app.transfers.list(&TransferFilter::default()).await.unwrap().total {
            Total::Exactly(count) | Total::MoreThan(count) => count,
        }
    }
}

fn greeting(id: &str) -> Greeting {
    Greeting {
        client: ClientId::parse(id).unwrap(),
        instance: uuid::Uuid::nil(),
        agent: AgentInfo::default(),
        shares: Vec::new(),
        default_file: Err(Code::FileMissing),
        extents: ExtentKinds::default(),
        active_transfers: Vec::new(),
        remote_addr: ([203, 0, 113, 7], 1).into(),
        key: None,
    }
}

/// The default settings of a server.
pub(super) fn config() -> Config {
    Config::try_from(Args::parse_from(["server"])).unwrap()
}

pub(super) fn client4() -> ClientId {
    ClientId::parse("client4").unwrap()
}
