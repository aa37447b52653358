//! A server in a temp folder, its clients, and an operator's hands.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use hyper::{Method, StatusCode};
use serde_json::Value;
use tempfile::TempDir;

use crate::{HttpResponse, Process, Proxy, TestClient, send};

/// The programs under test.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `filepull`.
    pub server: PathBuf,
    /// `filepull-agent`.
    pub agent: PathBuf,
}

impl Default for Programs {
    /// Those that this package builds.
    fn default() -> Self {
        Self { server: "e2e-filepull".into(), agent: "e2e-filepull-agent".into() }
    }
}

/// A server, and everything a test needs around it.
#[derive(Debug)]
pub struct TestServer {
    programs: Programs,
    folder: TempDir,
    settings: Vec<(String, String)>,
    launcher: Vec<String>,
    server: Option<Process>,
    http: SocketAddr,
    grpc: SocketAddr,
}

impl TestServer {
    /// Starts a server with its defaults, in a new folder.
    ///
    /// # Errors
    /// It does not get ready.
    pub async fn start() -> anyhow::Result<Self> {
        Self::with(&[]).await
    }

    /// Starts a server with these settings.
    ///
    /// # Errors
    /// It does not get ready.
    pub async fn with(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::launched_by(&[], settings).await
    }

    /// Starts a server with these settings through a launcher, such as `prlimit --fsize=1000000`.
    ///
    /// # Errors
    /// It does not get ready.
    pub async fn launched_by(launcher: &[&str], settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let launcher = launcher.iter().map(|&word| word.to_owned()).collect();
        let folder = tempfile::tempdir()?;
        let mut bed = Self { launcher, ..Self::made_in(folder, Programs::default(), settings) };
        bed.start_server().await?;
        Ok(bed)
    }

    /// A bed in this folder whose server has not been started yet.
    pub fn made_in(folder: TempDir, programs: Programs, settings: &[(&str, &str)]) -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        // A test machine may be almost full; what is left must not decide whether tests pass.
        let mut own = vec![("MIN_FREE".to_owned(), "1MiB".to_owned())];
        // What a fleet needs, a test need not wait for.
        own.push(("RECONNECT_CAP".to_owned(), "1s".to_owned()));
        own.extend(settings.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())));
        let (launcher, settings, server) = (Vec::new(), own, None);
        Self { programs, folder, settings, launcher, server, http: nowhere, grpc: nowhere }
    }

    /// Starts the server through this launcher from now on.
    pub fn launch_server_by(&mut self, launcher: Vec<String>) {
        self.launcher = launcher;
    }

    /// Gives the server one more setting from its next start on.
    pub fn server_setting(&mut self, key: &str, value: &str) {
        self.settings.push((key.to_owned(), value.to_owned()));
    }

    /// Starts the server, on other ports than before.
    ///
    /// # Errors
    /// It does not get ready.
    pub async fn start_server(&mut self) -> anyhow::Result<()> {
        let mut settings = vec![
            ("HTTP_ADDR", "127.0.0.1:0".to_owned()),
            ("GRPC_ADDR", "127.0.0.1:0".to_owned()),
            ("DATA_DIR", self.data_dir().display().to_string()),
            ("LOG_FORMAT", "json".to_owned()),
        ];
        settings.extend(self.settings.iter().map(|(key, value)| (key.as_str(), value.clone())));
        let mut server =
            Process::start(&self.launcher, &self.programs.server, "server", &settings)?;
        let ready: Value = serde_json::from_str(&server.ready("\"server.ready\"").await?)?;
        let addr = |key: &str| {
            let text = ready[key].as_str().with_context(|| format!("no {key} in {ready}"))?;
            anyhow::Ok(text.parse::<SocketAddr>()?)
        };
        (self.http, self.grpc) = (addr("http_addr")?, addr("grpc_addr")?);
        self.server = Some(server);
        Ok(())
    }

    /// Takes the server out of the bed: to kill it, to watch it, or to end it.
    ///
    /// # Errors
    /// It has been taken.
    pub fn take_server(&mut self) -> anyhow::Result<Process> {
        self.server.take().context("the server has been taken")
    }

    /// The running server.
    ///
    /// # Errors
    /// It has been taken.
    pub fn server(&self) -> anyhow::Result<&Process> {
        self.server.as_ref().context("the server has been taken")
    }

    /// Where operators curl.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where agents dial.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// A wire to the server that can be cut.
    ///
    /// # Errors
    /// No port is free.
    pub async fn proxy(&self) -> anyhow::Result<Proxy> {
        Proxy::start(self.grpc).await
    }

    /// The folder of everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Lets every user of this machine enter the folders of the bed.
    ///
    /// # Errors
    /// The disk failed.
    pub fn open_to_all(&self) -> anyhow::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        Ok(fs::set_permissions(self.folder.path(), fs::Permissions::from_mode(0o711))?)
    }

    /// The folder of the downloads.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("server-data")
    }

    /// A client with this default file, not connected yet.
    ///
    /// # Errors
    /// The disk failed.
    pub fn client(&self, id: &str, data: &[u8]) -> anyhow::Result<TestClient> {
        TestClient::made_in(self.folder(), self.programs.agent.clone(), id, data, self.grpc)
    }

    /// A client with this default file, connected.
    ///
    /// # Errors
    /// It does not connect.
    pub async fn connected(&self, id: &str, data: &[u8]) -> anyhow::Result<TestClient> {
        let mut client = self.client(id, data)?;
        client.connect().await?;
        Ok(client)
    }

    /// `curl`.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn get(&self, path: &str) -> anyhow::Result<HttpResponse> {
        self.send(Method::GET, path, &[], "").await
    }

    /// `curl -H 'Accept: application/json'`.
    ///
    /// # Errors
    /// The server does not answer, or not in JSON.
    pub async fn json(&self, path: &str) -> anyhow::Result<Value> {
        self.send(Method::GET, path, &[("accept", "application/json")], "").await?.json()
    }

    /// Asks for a resource until it is as wanted.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn until(
        &self,
        path: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        loop {
            let found = self.json(path).await?;
            if wanted(&found) {
                return Ok(found);
            }
            tokio::task::yield_now().await;
        }
    }

    /// `curl -X METHOD -H … -d …`.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> anyhow::Result<HttpResponse> {
        send(self.http, method, path, headers, body).await
    }

    /// Pulls the default file and waits for it; the download.
    ///
    /// # Errors
    /// It was not done, with the server's words.
    pub async fn pull(&self, id: &str) -> anyhow::Result<PathBuf> {
        let reply = self.get(&format!("/trigger?id={id}&wait=100s&fresh")).await?;
        anyhow::ensure!(reply.status == StatusCode::OK, "{}: {}", reply.status, reply.text());
        let text = reply.text();
        let saved = text.lines().find_map(|line| line.trim().strip_prefix("saved"));
        Ok(PathBuf::from(saved.context("nothing was saved")?.trim()))
    }

    /// The finished downloads of a client, in the order of their names.
    ///
    /// # Errors
    /// The disk failed.
    pub fn downloads(&self, id: &str) -> anyhow::Result<Vec<PathBuf>> {
        let is_download = |name: &str| name.starts_with("download-") && !name.ends_with(".tmp");
        self.entries(id, is_download)
    }

    /// Whatever else lies in a client's folder.
    ///
    /// # Errors
    /// The disk failed.
    pub fn leftovers(&self, id: &str) -> anyhow::Result<Vec<PathBuf>> {
        self.entries(id, |name| !name.starts_with("download-") || name.ends_with(".tmp"))
    }

    fn entries(&self, id: &str, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<PathBuf>> {
        let folder = self.data_dir().join(id);
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.file_name().and_then(|name| name.to_str()).is_some_and(&wanted) {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }
}

/// Whether two files hold the same bytes.
///
/// # Errors
/// One cannot be read.
pub fn same_bytes(a: &Path, b: &Path) -> anyhow::Result<bool> {
    Ok(fs::read(a)? == fs::read(b)?)
}

/// Made bytes that no other name has: always the same for the same name.
pub fn test_data(name: &str, len: usize) -> Vec<u8> {
    let seed = name.bytes().fold(len as u64, |seed, byte| seed * 31 + u64::from(byte));
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}
