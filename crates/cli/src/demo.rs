//! `filepull demo`: runs a server and several clients in one process.

use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use filepull_agent::Agent;
use filepull_agent::dial::ServerAddr;
use filepull_agent::share::Shares;
use filepull_core::human::{self, parse_addr, parse_size};
use filepull_core::id::ClientId;
use filepull_process::{Lifecycle, environment, signal};
use filepull_server::readiness::Readiness;
use filepull_server::{Config, Server};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::demo_file::{self, DemoFile};
use crate::output::print_progress;

/// Command line of `filepull demo`, unvalidated.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address for HTTP requests; loopback only.
    #[arg(long, env = "HTTP_ADDR", default_value = "127.0.0.1:8080", value_parser = parse_loopback)]
    http_addr: SocketAddr,
    /// Address that the clients connect to; loopback only.
    #[arg(long, env = "GRPC_ADDR", default_value = "127.0.0.1:50051", value_parser = parse_loopback)]
    grpc_addr: SocketAddr,
    /// Folder of the downloads and the records; created if missing.
    #[arg(long, env = "DATA_DIR", default_value = "server-data")]
    data_dir: PathBuf,
    /// Folder of the clients' files; created if missing.
    #[arg(long, env = "CLIENT_DIR", default_value = "client-data")]
    client_dir: PathBuf,
    /// Number of clients: 1 to 1000.
    #[arg(
        long, env = "CLIENTS", default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    clients: u32,
    /// Size of each generated file; an existing file is kept.
    #[arg(long, env = "SIZE", default_value = "100MiB", value_parser = parse_file_size)]
    size: u64,
    /// Minimum log level: error, warn, info, debug, trace, or a filter.
    #[arg(long, env = "LOG_LEVEL", default_value = "warn")]
    pub(crate) log_level: String,
}

/// Parses a loopback address. Every host that reaches the demo may pull and may connect as a
/// client, so the demo rejects other addresses, also those that the environment sets for a server.
fn parse_loopback(text: &str) -> Result<SocketAddr, String> {
    match parse_addr(text)? {
        addr if addr.ip().to_canonical().is_loopback() => Ok(addr),
        addr => Err(format!(
            "the demo listens on this machine only. Write 127.0.0.1:{}; for other machines use \
             `filepull server`",
            addr.port()
        )),
    }
}

fn parse_file_size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        size if size < demo_file::MIN_SIZE => Err("the minimum is 1KiB".to_owned()),
        size => Ok(size),
    }
}

impl Args {
    fn client_ids(&self) -> impl Iterator<Item = ClientId> {
        (1..=self.clients).filter_map(|number| ClientId::parse(&format!("client{number}")).ok())
    }

    fn file_of(&self, client: &ClientId) -> PathBuf {
        self.client_dir.join(client.as_str()).join("data.txt")
    }
}

/// Runs until Ctrl-C or SIGTERM.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    // Installed first, so that a signal during startup leaves no incomplete file.
    let shutdown = signal::shutdown()?;
    check_free_space(&args)?;
    let server = Server::bind(server_config(&args)?).await?;
    let http = server.http_addr()?;
    let grpc = server.grpc_addr()?;
    let readiness = server.readiness()?;
    let stop_server = CancellationToken::new();
    let serving = server.run_until(stop_server.clone().cancelled_owned());
    let clients = async {
        // The clients end first. If the server ended first, each client would log a lost session.
        let _stop_server = stop_server.drop_guard();
        let server = ServerAddr::parse(&grpc.to_string())?;
        run_clients(&args, http, &server, &readiness, shutdown).await
    };
    let (served, ran) = tokio::join!(serving, clients);
    ran.and(served)?;
    print_progress(&format!("Stopped. The files stay in {}/.", folder_text(&args.data_dir)));
    Ok(())
}

/// Generates the files and runs their clients, until `shutdown` resolves.
async fn run_clients(
    args: &Args,
    http: SocketAddr,
    server: &ServerAddr,
    readiness: &Readiness,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut shutdown = pin!(shutdown);
    let mut generating = pin!(generate_files(args, &stop));
    let files = tokio::select! {
        files = generating.as_mut() => files?,
        () = shutdown.as_mut() => {
            stop.cancel();
            return generating.await.map(drop);
        }
    };
    let agents = Lifecycle::new();
    for (client, file) in files {
        let shares = Shares::new(&file, []).map_err(anyhow::Error::msg)?;
        let config = filepull_agent::config::Config::new(client, server.clone(), shares);
        let stop = agents.drain().clone();
        agents.spawn(async move {
            if let Err(error) = Agent::new(config).run_until(stop.cancelled_owned()).await {
                tracing::error!("{error:#}");
            }
        });
    }
    let n_clients = usize::try_from(args.clients)?;
    let print_commands = async {
        // A client that takes longer logs the reason, and the demo continues with the others.
        let _ = timeout(CONNECT_LIMIT, wait_for_clients(readiness, n_clients)).await;
        print_progress(&next_commands(args, http));
        pending::<()>().await;
    };
    tokio::select! {
        () = print_commands => {}
        () = shutdown => {}
    }
    // An agent ends within five seconds, also if the network does not respond.
    let _ = agents.shut_down(Duration::from_secs(5)).await;
    Ok(())
}

/// How long the demo waits for its clients before it prints the commands.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

async fn wait_for_clients(readiness: &Readiness, n_clients: usize) {
    while readiness.clients_online() < n_clients {
        sleep(POLL_INTERVAL).await;
    }
}

/// Generates the file of each client. Returns fewer files if `stop` is cancelled.
async fn generate_files(
    args: &Args,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<(ClientId, PathBuf)>> {
    let mut files = Vec::new();
    for client in args.client_ids() {
        let file = args.file_of(&client);
        match generate_file(&client, &file, args.size, stop).await? {
            DemoFile::New => print_progress(&format!("generated {}", file.display())),
            DemoFile::Kept(found) if found == args.size => {}
            DemoFile::Kept(found) => print_progress(&format!(
                "kept {}: it has {}; remove it to get one of {}",
                file.display(),
                human::size(found),
                human::size(args.size)
            )),
            DemoFile::Stopped => break,
        }
        files.push((client, file));
    }
    Ok(files)
}

async fn generate_file(
    client: &ClientId,
    file: &Path,
    size: u64,
    stop: &CancellationToken,
) -> anyhow::Result<DemoFile> {
    let id = client.clone();
    let path = file.to_owned();
    let stop = stop.clone();
    let generated =
        spawn_blocking(move || demo_file::generate(&path, id.as_str(), size, &stop)).await?;
    generated.with_context(|| format!("generating {}", file.display()))
}

/// Checks that the disk has space for each missing file twice: for the client and for the server.
fn check_free_space(args: &Args) -> anyhow::Result<()> {
    let missing = args.client_ids().filter(|client| !args.file_of(client).exists()).count() as u64;
    let need = args.size.saturating_mul(2 * missing);
    let existing = args.client_dir.ancestors().find(|folder| folder.exists());
    let folder = existing.unwrap_or(Path::new("."));
    let disk = rustix::fs::statvfs(folder)?;
    if disk.f_blocks == 0 {
        return Ok(()); // this file system does not report its size
    }
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    anyhow::ensure!(
        need <= free,
        "{} and as many copies need {}, the disk of {} has {} free; reduce --size",
        files(missing),
        human::size(need),
        folder.display(),
        human::size(free)
    );
    Ok(())
}

fn server_config(args: &Args) -> anyhow::Result<Config> {
    // Parsed as the command line of `filepull server`, so that its checks and defaults apply.
    let command_line = [
        "demo".into(),
        format!("--http-addr={}", args.http_addr),
        format!("--grpc-addr={}", args.grpc_addr),
        format!("--data-dir={}", args.data_dir.display()),
        format!("--log-level={}", args.log_level),
        // Explicit: every host that reaches the demo may pull, and any agent may connect.
        "--http-auth=none".into(),
        "--agent-auth=open".into(),
    ];
    Ok(Config::try_from(environment::try_parse_from::<filepull_server::Args>(command_line)?)?)
}

/// Returns the commands to try. The first one to run comes last, directly above the prompt.
fn next_commands(args: &Args, http: SocketAddr) -> String {
    let saved = folder_text(&args.data_dir);
    let source = folder_text(&args.client_dir);
    let is_default = http.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST);
    let host = if is_default { format!("localhost:{}", http.port()) } else { http.to_string() };
    let clients = match args.clients {
        1 => "one client".to_owned(),
        more => format!("{more} clients"),
    };
    let client = format!("client{}", args.clients.min(4));
    format!(
        "\nA server and {clients} run here, for this machine only. Ctrl-C ends it.\n\n\
         In another shell, compare a download with its source, and open the home page:\n\
         \x20 sha256sum {saved}/{client}/download-*.txt {source}/{client}/data.txt\n\
         \x20 curl {host}\n\n\
         First pull it:\n\
         \x20 curl \"{host}/trigger?id={client}&wait\""
    )
}

fn files(count: u64) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

/// Returns the path without slashes at its end.
fn folder_text(folder: &Path) -> String {
    let text = folder.display().to_string();
    if text == "/" { text } else { text.trim_end_matches('/').to_owned() }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Demo {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(flags: &[&str]) -> Result<Args, clap::Error> {
        Demo::try_parse_from(["demo"].iter().chain(flags)).map(|demo| demo.args)
    }

    #[test]
    fn the_next_commands_use_the_folders_and_addresses_of_the_flags() {
        let check = |flags: &[&str], http: &str, expected: &[&str]| {
            let text = next_commands(&parsed(flags).unwrap(), http.parse().unwrap());
            for part in expected {
                assert!(text.contains(part), "{text}");
            }
        };
        let usual = ["and 5 clients run", "curl \"localhost:8080/trigger?id=client4&wait\""];
        check(&[], "127.0.0.1:8080", &usual);
        check(&[], "[::1]:80", &["curl \"[::1]:80/trigger?id=client4&wait\""]);
        check(&[], "127.0.0.2:80", &["curl \"127.0.0.2:80/trigger?id=client4&wait\""]);
        let flags = ["--clients=3", "--data-dir=here/", "--client-dir=there"];
        check(&flags, "127.0.0.1:1", &["id=client3&", "here/client3/d", "there/client3/data.txt"]);
        check(&["--clients=1"], "127.0.0.1:1", &["and one client run", "id=client1&"]);
    }

    #[test]
    fn the_next_command_is_the_last_line_of_a_small_screen() {
        let text = next_commands(&parsed(&[]).unwrap(), "127.0.0.1:8080".parse().unwrap());
        let last = text.lines().last().unwrap_or_default();
        assert_eq!(last.trim(), "curl \"localhost:8080/trigger?id=client4&wait\"");
        assert!(text.lines().count() < 24 && text.lines().all(|line| line.len() <= 80), "{text}");
    }

    #[test]
    fn a_demo_listens_on_this_machine_only() {
        for addr in ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:80", "[::ffff:192.0.2.1]:80"] {
            for flag in ["--http-addr", "--grpc-addr"] {
                let error = parsed(&[flag, addr]).unwrap_err().to_string();
                assert!(error.contains("this machine only"), "{error}");
            }
        }
        assert!(parsed(&["--http-addr", "[::1]:8080", "--grpc-addr", "127.0.0.2:1"]).is_ok());
    }

    #[test]
    fn a_demo_without_clients_or_content_is_rejected() {
        for flags in ["--clients=0", "--clients=5000", "--size=0", "--size=1023"] {
            assert!(parsed(&[flags]).is_err(), "{flags} was accepted");
        }
    }

    #[test]
    fn files_that_do_not_fit_are_rejected_before_the_first_byte() {
        let folder = tempfile::tempdir().unwrap();
        let client_dir = format!("--client-dir={}", folder.path().join("a/b").display());
        let check = |size: &str| check_free_space(&parsed(&[size, &client_dir]).unwrap());
        let error = check("--size=1000TiB").unwrap_err().to_string();
        assert!(
            error.starts_with("5 files and as many copies need 9.8 PiB, the disk of /"),
            "{error}"
        );
        assert!(check("--size=1KiB").is_ok());
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }
}
