//! A server in a temp folder, its clients, and an operator's hands.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::HeaderMap;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Process, Proxy, soon};

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
pub struct TestBed {
    programs: Programs,
    folder: TempDir,
    settings: Vec<(String, String)>,
    launcher: Vec<String>,
    server: Option<Process>,
    http: SocketAddr,
    grpc: SocketAddr,
}

/// An agent that is connected, and its machine.
#[derive(Debug)]
pub struct Client {
    program: PathBuf,
    /// Its id.
    pub id: String,
    /// The folder of its files; `data.txt` is the default one.
    pub files: PathBuf,
    settings: Vec<(&'static str, String)>,
    launcher: Vec<String>,
    agent: Option<Process>,
}

/// An answer of the server.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| self.text())
    }

    /// The first line of the body.
    pub fn first_line(&self) -> String {
        self.text().lines().next().unwrap_or_default().to_owned()
    }

    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl TestBed {
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
    pub fn client(&self, id: &str, data: &[u8]) -> anyhow::Result<Client> {
        let files = self.folder.path().join("client-data").join(id);
        fs::create_dir_all(&files)?;
        fs::write(files.join("data.txt"), data)?;
        let settings = vec![
            ("CLIENT_ID", id.to_owned()),
            ("SERVER_ADDR", self.grpc.to_string()),
            ("FILE_PATH", files.join("data.txt").display().to_string()),
            ("STATE_DIR", self.folder.path().join("state").join(id).display().to_string()),
        ];
        let (program, launcher) = (self.programs.agent.clone(), Vec::new());
        Ok(Client { program, id: id.to_owned(), files, settings, launcher, agent: None })
    }

    /// A client with this default file, connected.
    ///
    /// # Errors
    /// It does not connect.
    pub async fn connected(&self, id: &str, data: &[u8]) -> anyhow::Result<Client> {
        let mut client = self.client(id, data)?;
        client.connect().await?;
        Ok(client)
    }

    /// `curl`.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn get(&self, path: &str) -> anyhow::Result<Reply> {
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
    ) -> anyhow::Result<Reply> {
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

impl Client {
    /// Makes it dial somewhere else, such as a [`Proxy`].
    #[must_use]
    pub fn dialling(self, addr: SocketAddr) -> Self {
        self.setting("SERVER_ADDR", &addr.to_string())
    }

    /// Changes or adds a setting of its agent.
    #[must_use]
    pub fn setting(mut self, key: &'static str, value: &str) -> Self {
        self.set(key, value);
        self
    }

    /// Changes or adds a setting of its agent, from its next start on.
    pub fn set(&mut self, key: &'static str, value: &str) {
        self.settings.retain(|(known, _)| *known != key);
        self.settings.push((key, value.to_owned()));
    }

    /// Starts its agent through a launcher, such as `setpriv --reuid=65534`.
    #[must_use]
    pub fn launched_by(mut self, launcher: &[&str]) -> Self {
        self.launcher = launcher.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// The same, from its agent's next start on.
    pub fn launch_by(&mut self, launcher: Vec<String>) {
        self.launcher = launcher;
    }

    /// Starts its agent and waits until it is connected.
    ///
    /// # Errors
    /// It does not connect.
    pub async fn connect(&mut self) -> anyhow::Result<()> {
        self.start()?;
        self.agent()?.says("connected in").await?;
        Ok(())
    }

    /// Starts its agent.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let agent = Process::start(&self.launcher, &self.program, "run", &self.settings)?;
        self.agent = Some(agent);
        Ok(())
    }

    /// Its running agent.
    ///
    /// # Errors
    /// It is not running.
    pub fn agent(&self) -> anyhow::Result<&Process> {
        self.agent.as_ref().context("the agent is not running")
    }

    /// Takes its agent: to kill it, or to end it.
    ///
    /// # Errors
    /// It is not running.
    pub fn take_agent(&mut self) -> anyhow::Result<Process> {
        self.agent.take().context("the agent is not running")
    }

    /// The path of its default file.
    pub fn data(&self) -> PathBuf {
        self.files.join("data.txt")
    }
}

/// Sends one request to the server at `http`, on a connection of its own.
///
/// # Errors
/// The server does not answer.
pub async fn send(
    http: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> anyhow::Result<Reply> {
    let mut request = Request::builder().method(method).uri(format!("http://{http}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?;
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
    let answer = async {
        let (head, body) = client.request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        anyhow::Ok(Reply { status: head.status.as_u16(), headers: head.headers, body })
    };
    soon(&format!("an answer to {path}"), answer).await?
}

/// Whether two files hold the same bytes.
///
/// # Errors
/// One cannot be read.
pub fn same(a: &Path, b: &Path) -> anyhow::Result<bool> {
    Ok(fs::read(a)? == fs::read(b)?)
}

/// Made bytes that no other name has: always the same for the same name.
pub fn made(name: &str, len: usize) -> Vec<u8> {
    let seed = name.bytes().fold(len as u64, |seed, byte| seed * 31 + u64::from(byte));
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}
