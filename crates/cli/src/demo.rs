//! `filepull demo`: a server and five clients in one process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use filepull_agent::Agent;
use filepull_agent::dial::ServerAddr;
use filepull_agent::share::Shares;
use filepull_core::human::parse_size;
use filepull_core::id::ClientId;
use filepull_process::{Lifecycle, signal};
use filepull_server::{Config, Server};
use tokio::task::spawn_blocking;

use crate::{made_file, say};

/// What was typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to curl.
    #[arg(long, env = "HTTP_ADDR", default_value = "127.0.0.1:8080")]
    http_addr: SocketAddr,
    /// Where the clients dial.
    #[arg(long, env = "GRPC_ADDR", default_value = "127.0.0.1:50051")]
    grpc_addr: SocketAddr,
    /// Folder of the downloads and the records; made if missing.
    #[arg(long, env = "DATA_DIR", default_value = "server-data")]
    data_dir: PathBuf,
    /// Folder of the clients' files; made if missing.
    #[arg(long, env = "CLIENT_DIR", default_value = "client-data")]
    client_dir: PathBuf,
    /// How many clients.
    #[arg(long, env = "CLIENTS", default_value_t = 5)]
    clients: u32,
    /// Size of a made file.
    #[arg(long, env = "SIZE", default_value = "100MiB", value_parser = parse_size)]
    size: u64,
    /// Least level that is logged: error, warn, info, debug, trace, or a filter.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub(crate) log_level: String,
}

/// Runs until Ctrl-C or SIGTERM.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let files = make_files(&args).await?;
    let asked_to_stop = signal::shutdown()?;
    let server = Server::bind(server_config(&args)?).await?;
    let (http, grpc) = (server.http_addr()?, server.grpc_addr()?);
    let agents = Lifecycle::new();
    for (client, file) in files {
        let shares = Shares::new(&file, []).map_err(anyhow::Error::msg)?;
        let address = ServerAddr::parse(&grpc.to_string())?;
        let config = filepull_agent::config::Config::new(client, address, shares);
        let stop = agents.drain().clone();
        agents.spawn(async move {
            if let Err(error) = Agent::new(config).run_until(stop.cancelled_owned()).await {
                tracing::error!("{error:#}");
            }
        });
    }
    say(&what_next(&args, http));
    let ended = server.run_until(asked_to_stop).await;
    // Their lines are down by now. Each ends within five seconds, whatever the network does.
    let _ = agents.shut_down(std::time::Duration::from_secs(5)).await;
    say("Stopped. The files stay in server-data/.");
    ended
}

async fn make_files(args: &Args) -> anyhow::Result<Vec<(ClientId, PathBuf)>> {
    let mut files = Vec::new();
    for number in 1..=args.clients {
        let client = ClientId::parse(&format!("client{number}"))?;
        let path = args.client_dir.join(client.as_str()).join("data.txt");
        let (name, file, size) = (client.to_string(), path.clone(), usize::try_from(args.size)?);
        if spawn_blocking(move || made_file::make(&file, &name, size)).await?? {
            say(&format!("made {}", path.display()));
        }
        files.push((client, path));
    }
    Ok(files)
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
    Ok(Config::try_from(Typed::try_parse_from(typed)?.server)?)
}

#[derive(clap::Parser)]
struct Typed {
    #[command(flatten)]
    server: filepull_server::Args,
}

fn what_next(args: &Args, http: SocketAddr) -> String {
    let Args { data_dir, client_dir, clients, .. } = args;
    let host = match http.ip().is_loopback() {
        true => format!("localhost:{}", http.port()),
        false => http.to_string(),
    };
    let (saved, source) = (shown(data_dir), shown(client_dir));
    format!(
        "\nA server and {clients} clients run in this process. Open access, as it is a demo.\n\n\
         In another shell:\n\
         \x20 curl \"{host}/trigger?id=client4&wait\"\n\
         \x20 sha256sum {saved}/client4/download-*.txt {source}/client4/data.txt\n\
         \x20 curl {host}\n\n\
         Ctrl-C ends it.\n"
    )
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
