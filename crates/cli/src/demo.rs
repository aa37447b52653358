//! `filepull demo`: a server and five clients in one process.

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
use crate::output::say;

/// What was typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to curl: on this machine only.
    #[arg(long, env = "HTTP_ADDR", default_value = "127.0.0.1:8080", value_parser = parse_loopback)]
    http_addr: SocketAddr,
    /// Where the clients dial: on this machine only.
    #[arg(long, env = "GRPC_ADDR", default_value = "127.0.0.1:50051", value_parser = parse_loopback)]
    grpc_addr: SocketAddr,
    /// Folder of the downloads and the records; made if missing.
    #[arg(long, env = "DATA_DIR", default_value = "server-data")]
    data_dir: PathBuf,
    /// Folder of the clients' files; made if missing.
    #[arg(long, env = "CLIENT_DIR", default_value = "client-data")]
    client_dir: PathBuf,
    /// How many clients: 1 to 1000.
    #[arg(
        long, env = "CLIENTS", default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(1..=1000)
    )]
    clients: u32,
    /// Size of a file that is made; one that is there already is kept.
    #[arg(long, env = "SIZE", default_value = "100MiB", value_parser = parse_made_size)]
    size: u64,
    /// Least level that is logged: error, warn, info, debug, trace, or a filter.
    #[arg(long, env = "LOG_LEVEL", default_value = "warn")]
    pub(crate) log_level: String,
}

/// Every host that reaches the demo may pull and may connect as a client. So the demo listens on
/// this machine only, whatever the environment sets for a server.
fn parse_loopback(text: &str) -> Result<SocketAddr, String> {
    match parse_addr(text)? {
        addr if addr.ip().to_canonical().is_loopback() => Ok(addr),
        addr => Err(format!(
            "the demo listens on this machine only. Write 127.0.0.1:{}; for other machines there \
             is `filepull server`",
            addr.port()
        )),
    }
}

fn parse_made_size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        size if size < demo_file::MIN_SIZE => Err("a made file has at least 1KiB".to_owned()),
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
    // Before the first file: whoever stops the demo finds no half of one.
    let asked_to_stop = signal::shutdown()?;
    check_room(&args)?;
    let server = Server::bind(server_config(&args)?).await?;
    let (http, grpc) = (server.http_addr()?, server.grpc_addr()?);
    let readiness = server.readiness()?;
    let stop_server = CancellationToken::new();
    let serving = server.run_until(stop_server.clone().cancelled_owned());
    let clients = async {
        // The clients end first: a server that left before them would make each of them complain.
        let _stop_server = stop_server.drop_guard();
        let server = ServerAddr::parse(&grpc.to_string())?;
        run_clients(&args, http, &server, &readiness, asked_to_stop).await
    };
    let (ended, ran) = tokio::join!(serving, clients);
    ran.and(ended)?;
    say(&format!("Stopped. The files stay in {}/.", shown(&args.data_dir)));
    Ok(())
}

/// Makes the files and runs their clients, until it is asked to stop.
async fn run_clients(
    args: &Args,
    http: SocketAddr,
    server: &ServerAddr,
    readiness: &Readiness,
    asked_to_stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let (mut asked_to_stop, mut making) = (pin!(asked_to_stop), pin!(make_files(args, &stop)));
    let files = tokio::select! {
        files = making.as_mut() => files?,
        () = asked_to_stop.as_mut() => {
            stop.cancel();
            return making.await.map(drop);
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
    let shown = async {
        // A client that takes longer logs the reason, and the demo continues with the others.
        let _ = timeout(CONNECT_LIMIT, until_online(readiness, n_clients)).await;
        say(&what_next(args, http));
        pending::<()>().await;
    };
    tokio::select! {
        () = shown => {}
        () = asked_to_stop => {}
    }
    // Each ends within five seconds, whatever the network does.
    let _ = agents.shut_down(Duration::from_secs(5)).await;
    Ok(())
}

/// How long the demo waits for its clients before it prints the commands.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

async fn until_online(readiness: &Readiness, n_clients: usize) {
    while readiness.clients_online() < n_clients {
        sleep(POLL_INTERVAL).await;
    }
}

/// Fewer than were wanted, when `stop` is cancelled meanwhile.
async fn make_files(
    args: &Args,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<(ClientId, PathBuf)>> {
    let mut files = Vec::new();
    for client in args.client_ids() {
        let path = args.file_of(&client);
        let (id, file, size, stop) = (client.clone(), path.clone(), args.size, stop.clone());
        let making = spawn_blocking(move || demo_file::make(&file, id.as_str(), size, &stop));
        let shown = path.display();
        match making.await?.with_context(|| format!("making {shown}"))? {
            DemoFile::New => say(&format!("made {shown}")),
            DemoFile::Kept(found) if found == args.size => {}
            DemoFile::Kept(found) => {
                let (found, wanted) = (human::size(found), human::size(args.size));
                say(&format!("kept {shown}: it has {found}; remove it to have one of {wanted}"));
            }
            DemoFile::Stopped => break,
        }
        files.push((client, path));
    }
    Ok(files)
}

/// Every file is written once here and once more when the server has pulled it.
fn check_room(args: &Args) -> anyhow::Result<()> {
    let missing = args.client_ids().filter(|client| !args.file_of(client).exists()).count() as u64;
    let need = args.size.saturating_mul(2 * missing);
    let folder = args.client_dir.ancestors().find(|folder| folder.exists());
    let folder = folder.unwrap_or(Path::new("."));
    let disk = rustix::fs::statvfs(folder)?;
    if disk.f_blocks == 0 {
        return Ok(()); // a file system that does not say
    }
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    anyhow::ensure!(
        need <= free,
        "{} and as many copies need {}, the disk of {} has {} free; make them smaller with --size",
        files(missing),
        human::size(need),
        folder.display(),
        human::size(free)
    );
    Ok(())
}

fn server_config(args: &Args) -> anyhow::Result<Config> {
    // Through the same door as `filepull server`, so that its checks and defaults hold here too.
    let typed = [
        "demo".into(),
        format!("--http-addr={}", args.http_addr),
        format!("--grpc-addr={}", args.grpc_addr),
        format!("--data-dir={}", args.data_dir.display()),
        format!("--log-level={}", args.log_level),
        // Said aloud: in the demo everybody who reaches it may pull, and any agent may connect.
        "--http-auth=none".into(),
        "--agent-auth=open".into(),
    ];
    Ok(Config::try_from(environment::try_parse_from::<filepull_server::Args>(typed)?)?)
}

/// Prints the commands to type. The next command comes last, directly above the cursor.
fn what_next(args: &Args, http: SocketAddr) -> String {
    let (saved, source) = (shown(&args.data_dir), shown(&args.client_dir));
    let is_default = http.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST);
    let host = if is_default { format!("localhost:{}", http.port()) } else { http.to_string() };
    let clients = match args.clients {
        1 => "one client".to_owned(),
        more => format!("{more} clients"),
    };
    let client = format!("client{}", args.clients.min(4));
    format!(
        "\nA server and {clients} run here, for this machine only. Ctrl-C ends it.\n\n\
         In another shell, compare a file that has arrived, and look around:\n\
         \x20 sha256sum {saved}/{client}/download-*.txt {source}/{client}/data.txt\n\
         \x20 curl {host}\n\n\
         First pull it:\n\
         \x20 curl \"{host}/trigger?id={client}&wait\""
    )
}

fn files(count: u64) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

fn shown(folder: &Path) -> String {
    let shown = folder.display().to_string();
    if shown == "/" { shown } else { shown.trim_end_matches('/').to_owned() }
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

    fn typed(flags: &[&str]) -> Result<Args, clap::Error> {
        Demo::try_parse_from(["demo"].iter().chain(flags)).map(|demo| demo.args)
    }

    #[test]
    fn what_to_type_next_fits_what_was_typed() {
        let check = |flags: &[&str], http: &str, says: &[&str]| {
            let text = what_next(&typed(flags).unwrap(), http.parse().unwrap());
            for said in says {
                assert!(text.contains(said), "{text}");
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
        let text = what_next(&typed(&[]).unwrap(), "127.0.0.1:8080".parse().unwrap());
        let last = text.lines().last().unwrap_or_default();
        assert_eq!(last.trim(), "curl \"localhost:8080/trigger?id=client4&wait\"");
        assert!(text.lines().count() < 24 && text.lines().all(|line| line.len() <= 80), "{text}");
    }

    #[test]
    fn a_demo_is_for_this_machine_only() {
        for addr in ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:80", "[::ffff:192.0.2.1]:80"] {
            for flag in ["--http-addr", "--grpc-addr"] {
                let said = typed(&[flag, addr]).unwrap_err().to_string();
                assert!(said.contains("this machine only"), "{said}");
            }
        }
        assert!(typed(&["--http-addr", "[::1]:8080", "--grpc-addr", "127.0.0.2:1"]).is_ok());
    }

    #[test]
    fn a_demo_without_clients_or_content_is_refused() {
        for flags in ["--clients=0", "--clients=5000", "--size=0", "--size=1023"] {
            assert!(typed(&[flags]).is_err(), "{flags} was accepted");
        }
    }

    #[test]
    fn files_that_do_not_fit_are_refused_before_the_first_byte() {
        let folder = tempfile::tempdir().unwrap();
        let client_dir = format!("--client-dir={}", folder.path().join("a/b").display());
        let refused = check_room(&typed(&["--size=1000TiB", &client_dir]).unwrap()).unwrap_err();
        let said = refused.to_string();
        assert!(
            said.starts_with("5 files and as many copies need 9.8 PiB, the disk of /"),
            "{said}"
        );
        assert!(check_room(&typed(&["--size=1KiB", &client_dir]).unwrap()).is_ok());
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }
}
