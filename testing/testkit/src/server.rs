//! A server in a folder of its own, and the requests of an operator.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Parser as _;
use filepull_server::{Args, Config, Server};
use hyper::{Method, StatusCode};
use serde_json::Value;
use tempfile::TempDir;

use crate::program::{Host, Program, ProgramTask, flags};
use crate::{HttpClient, HttpResponse, Process, Programs, Proxy, TestClient, poll};

/// A server on free ports, in a temp folder that is deleted with it.
#[derive(Debug)]
pub struct TestServer {
    host: Host,
    folder: TempDir,
    settings: Vec<(String, String)>,
    launcher: Vec<String>,
    program: Option<Program>,
    http: SocketAddr,
    grpc: SocketAddr,
    /// The token of the requests; none if the server demands none.
    pub(crate) token: Option<String>,
}

/// A full disk must not fail a test, and an agent must not wait as long as a fleet needs.
const TEST_SETTINGS: [(&str, &str); 2] = [("MIN_FREE", "1MiB"), ("RECONNECT_CAP", "1s")];

impl TestServer {
    /// Starts a server inside the test. Its clients run inside the test too.
    pub async fn start() -> anyhow::Result<Self> {
        Self::with(&[]).await
    }

    /// Starts a server inside the test with these settings.
    pub async fn with(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut server = Self::new(tempfile::tempdir()?, Host::Test, settings);
        server.start_server().await?;
        Ok(server)
    }

    /// Starts a server as a process: for tests that kill or signal it, or read its output. Its
    /// clients are processes too.
    pub async fn start_process() -> anyhow::Result<Self> {
        Self::process_with(&[]).await
    }

    /// Starts a server as a process with these settings.
    pub async fn process_with(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        Self::launched_by(&[], settings).await
    }

    /// Starts a server as a process through a launcher, such as `prlimit --fsize=1000000`.
    pub async fn launched_by(launcher: &[&str], settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut server = Self::in_folder(tempfile::tempdir()?, Programs::default(), settings);
        server.launch_server_by(launcher.iter().map(|&word| word.to_owned()).collect());
        server.start_server().await?;
        Ok(server)
    }

    /// Returns a server in `folder` that runs as a process and is not started yet.
    pub fn in_folder(folder: TempDir, programs: Programs, settings: &[(&str, &str)]) -> Self {
        Self::new(folder, Host::Processes(programs), settings)
    }

    /// Returns a server in a temp folder that runs inside the test and is not started yet.
    pub(crate) fn inside(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        Ok(Self::new(tempfile::tempdir()?, Host::Test, settings))
    }

    fn new(folder: TempDir, host: Host, settings: &[(&str, &str)]) -> Self {
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let all = TEST_SETTINGS.iter().chain(settings);
        let settings = all.map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let launcher = Vec::new();
        Self {
            host,
            folder,
            settings,
            launcher,
            program: None,
            http: unknown,
            grpc: unknown,
            token: None,
        }
    }

    /// Sets the launcher for the next start.
    pub fn launch_server_by(&mut self, launcher: Vec<String>) {
        self.launcher = launcher;
    }

    /// Adds or replaces a setting for the next start.
    pub fn server_setting(&mut self, key: &str, value: &str) {
        self.settings.push((key.to_owned(), value.to_owned()));
    }

    /// Starts the server on new ports, and waits until it listens.
    pub async fn start_server(&mut self) -> anyhow::Result<()> {
        let data_dir = self.data_dir().display().to_string();
        let mut settings = vec![
            ("HTTP_ADDR", "127.0.0.1:0"),
            ("GRPC_ADDR", "127.0.0.1:0"),
            ("DATA_DIR", &data_dir),
            ("LOG_FORMAT", "json"),
        ];
        settings.extend(self.settings.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        let program = match &self.host {
            Host::Test => {
                let args = Args::try_parse_from(flags("server", settings.into_iter()))?;
                let server = Server::bind(Config::try_from(args)?).await?;
                self.http = server.http_addr()?;
                self.grpc = server.grpc_addr()?;
                Program::Task(ProgramTask::start(|stop| server.run_until(stop)))
            }
            Host::Processes(programs) => {
                let settings: Vec<_> =
                    settings.into_iter().map(|(key, value)| (key, value.to_owned())).collect();
                let mut process =
                    Process::start(&self.launcher, &programs.server, "server", &settings)?;
                let ready: Value = serde_json::from_str(&process.ready("\"server.ready\"").await?)?;
                let addr = |key: &str| {
                    let text =
                        ready[key].as_str().with_context(|| format!("no {key} in {ready}"))?;
                    anyhow::Ok(text.parse::<SocketAddr>()?)
                };
                self.http = addr("http_addr")?;
                self.grpc = addr("grpc_addr")?;
                Program::Process(Box::new(process))
            }
        };
        self.program = Some(program);
        Ok(())
    }

    /// Stops the server as SIGTERM does, and waits for its end.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.program.take().context("the server does not run")?.stop().await
    }

    /// Kills the process of the server (SIGKILL).
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.take_server()?.kill().await
    }

    /// Returns the process of the server. Fails if the server does not run as a process.
    pub fn server(&self) -> anyhow::Result<&Process> {
        self.program.as_ref().context("the server does not run")?.process()
    }

    /// Takes the process of the server.
    pub fn take_server(&mut self) -> anyhow::Result<Process> {
        self.program.take().context("the server does not run")?.into_process()
    }

    /// Returns the address for operators.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Returns the address for agents.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// Starts a proxy in front of the address for agents.
    pub async fn proxy(&self) -> anyhow::Result<Proxy> {
        Proxy::start(self.grpc).await
    }

    /// Returns the folder that holds all folders of the server and its clients.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Lets every user of this machine enter [`folder`](Self::folder).
    pub fn open_to_all(&self) -> anyhow::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        Ok(fs::set_permissions(self.folder.path(), fs::Permissions::from_mode(0o711))?)
    }

    /// Returns the folder of the downloads and the records.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("server-data")
    }

    /// Creates a client with `data` as its default file. Its agent is not started yet.
    pub fn client(&self, id: &str, data: &[u8]) -> anyhow::Result<TestClient> {
        TestClient::new(self.folder(), self.host.clone(), id, data, self.grpc)
    }

    /// Creates a client with `data` as its default file, and connects its agent.
    pub async fn connect(&self, id: &str, data: &[u8]) -> anyhow::Result<TestClient> {
        self.client(id, data)?.connected().await
    }

    /// Creates a client with a `MAX_RATE` such as `2MiB/s`, and connects its agent.
    pub async fn connect_at(
        &self,
        id: &str,
        data: &[u8],
        rate: &str,
    ) -> anyhow::Result<TestClient> {
        self.client(id, data)?.setting("MAX_RATE", rate).connected().await
    }

    /// Returns an operator's HTTP client, with the token of this server if it has one.
    pub fn operator(&self) -> HttpClient {
        HttpClient::new(self.http).maybe_token(self.token.clone())
    }

    /// Sends a GET request without extra headers.
    pub async fn get(&self, path: &str) -> anyhow::Result<HttpResponse> {
        self.operator().get(path).await
    }

    /// Sends a GET request that accepts JSON, and parses the response.
    pub async fn json(&self, path: &str) -> anyhow::Result<Value> {
        self.send(Method::GET, path, &[("accept", "application/json")], "").await?.json()
    }

    /// Sends a request with any method, headers and body.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> anyhow::Result<HttpResponse> {
        self.operator().send(method, path, headers, body).await
    }

    /// Sends a POST request with a JSON body.
    pub async fn post(&self, path: &str, json: &Value) -> anyhow::Result<HttpResponse> {
        self.operator().post(path, json).await
    }

    /// Cancels the transfer at `location`.
    pub async fn cancel(&self, location: &str) -> anyhow::Result<HttpResponse> {
        self.send(Method::POST, &format!("{location}/cancel"), &[], "").await
    }

    /// Polls a JSON resource until `wanted` returns true.
    pub async fn until(
        &self,
        path: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        poll(path, async || Ok(Some(self.json(path).await?).filter(&wanted))).await
    }

    /// Waits until the server shows the client as offline.
    pub async fn until_offline(&self, id: &str) -> anyhow::Result<()> {
        let path = format!("/api/v1/clients/{id}");
        self.until(&path, |client| client["online"] == false).await.map(drop)
    }

    /// Waits until the transfer at `location` is final.
    pub async fn finished(&self, location: &str) -> anyhow::Result<Value> {
        self.json(&format!("{location}?wait=100s")).await
    }

    /// Waits until the transfer at `location` is done. Fails if it ends otherwise.
    pub async fn done(&self, location: &str) -> anyhow::Result<Value> {
        let transfer = self.finished(location).await?;
        anyhow::ensure!(transfer["state"] == "done", "not done: {transfer}");
        Ok(transfer)
    }

    /// Pulls the default file and returns the path of the download. Fails if the transfer fails.
    pub async fn pull(&self, id: &str) -> anyhow::Result<PathBuf> {
        let response = self.get(&format!("/trigger?id={id}&wait=100s&fresh")).await?;
        let text = response.text();
        anyhow::ensure!(response.status == StatusCode::OK, "{}: {text}", response.status);
        let saved = text.lines().find_map(|line| line.trim().strip_prefix("saved"));
        Ok(PathBuf::from(saved.context("the response names no path")?.trim()))
    }

    /// Returns the paths of a client's downloads, sorted by name.
    pub fn downloads(&self, id: &str) -> anyhow::Result<Vec<PathBuf>> {
        self.entries(id, |name| name.starts_with("download-") && !name.ends_with(".tmp"))
    }

    /// Returns the paths of everything in a client's folder that is not a download.
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

/// Returns the environment of a server or a demo on free ports whose folders are in `folder`. `more`
/// adds or replaces settings.
pub fn settings_in<'a>(folder: &Path, more: &[(&'a str, &str)]) -> Vec<(&'a str, String)> {
    let path = |name: &str| folder.join(name).display().to_string();
    let mut settings = vec![
        ("HTTP_ADDR", "127.0.0.1:0".to_owned()),
        ("GRPC_ADDR", "127.0.0.1:0".to_owned()),
        ("DATA_DIR", path("server-data")),
        ("CLIENT_DIR", path("client-data")),
    ];
    settings.extend(more.iter().map(|&(name, value)| (name, value.to_owned())));
    settings
}

/// Bytes of a file that are compared at once.
const BLOCK_LEN: usize = 1 << 20;

/// Whether two files have equal contents. They are read in blocks: a file may be larger than the
/// memory.
pub fn same_bytes(a: &Path, b: &Path) -> anyhow::Result<bool> {
    let mut reader_of_a = BufReader::with_capacity(BLOCK_LEN, File::open(a)?);
    let mut reader_of_b = BufReader::with_capacity(BLOCK_LEN, File::open(b)?);
    loop {
        let block_of_a = reader_of_a.fill_buf()?;
        let block_of_b = reader_of_b.fill_buf()?;
        let n_bytes = block_of_a.len().min(block_of_b.len());
        if block_of_a[..n_bytes] != block_of_b[..n_bytes] {
            return Ok(false);
        }
        if n_bytes == 0 {
            return Ok(block_of_a.len() == block_of_b.len());
        }
        reader_of_a.consume(n_bytes);
        reader_of_b.consume(n_bytes);
    }
}

/// Returns `len` random bytes. The name and the length determine all of them.
pub fn test_data(name: &str, len: usize) -> Vec<u8> {
    let seed = name.bytes().fold(len as u64, |seed, byte| seed * 31 + u64::from(byte));
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}
