//! `filepull server`: runs a server and prints its addresses.

use std::time::Duration;

use filepull_process::signal;
use filepull_server::config::AgentAccess;
use filepull_server::data_folder::RECORDS_FOLDER;
use filepull_server::readiness::{Readiness, ReadyCheck};
use filepull_server::{Args, Config, Server, VERSION};
use tokio::time::sleep;

use crate::free_space_text;
use crate::output::print_progress;

/// Serves until Ctrl-C or SIGTERM.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let config = Config::try_from(args)?;
    let access = config.agent_access();
    let needs_sign_in = config.access.needs_sign_in(config.http_addr);
    let data_dir = config.data_dir.display().to_string();
    // Printed, because a data folder whose disk is not mounted looks like a new one.
    let is_new = !config.data_dir.join(RECORDS_FOLDER).join("records.db").exists();
    // Installed first, so that a signal during startup is not lost.
    let shutdown = signal::shutdown()?;
    let server = Server::bind(config).await?;
    let http = server.http_addr()?;
    let grpc = server.grpc_addr()?;
    let reach = match (grpc.ip().is_loopback(), access) {
        (_, AgentAccess::Enrolled) => "TLS; only agents that were enrolled with an invite",
        (true, AgentAccess::Open) => "this machine only; others: --grpc-addr 0.0.0.0:50051",
        (false, AgentAccess::Open) => "any agent may take any free id",
    };
    let sign_in = match (needs_sign_in, http.ip().is_loopback()) {
        (true, _) => "with a token: filepull token create NAME --role operator",
        (false, true) => "off, because only this machine can connect",
        (false, false) => "off (HTTP_AUTH=none): every host that reaches this address may pull",
    };
    let dial = match grpc.ip().is_unspecified() {
        true => format!("this-machine:{}", grpc.port()),
        false => grpc.to_string(),
    };
    let add = match access {
        AgentAccess::Enrolled => "filepull invite client1".to_owned(),
        AgentAccess::Open => {
            format!("CLIENT_ID=client1 SERVER_ADDR={dial} FILE_PATH=menu.txt filepull-agent")
        }
    };
    let free = free_space_text(&server).await;
    let records = if is_new { "; no records yet" } else { "" };
    print_progress(&format!(
        "filepull server {VERSION}\n\
         \x20 pages    http://{http}\n\
         \x20 agents   {grpc}  ({reach})\n\
         \x20 files    {data_dir}  ({free}{records})\n\
         \x20 sign-in  {sign_in}\n\
         Add a client:  {add}"
    ));
    let readiness = server.readiness()?;
    let serving = server.run_until(shutdown);
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => return served,
        () = print_readiness(&readiness) => {}
    }
    serving.await
}

/// How often a server that is not ready is checked.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Prints "Ready." when the server can accept pulls. Until then it prints which checks fail, each
/// time they change.
async fn print_readiness(readiness: &Readiness) {
    let mut printed = Vec::new();
    loop {
        let checks = readiness.check().await.into_iter();
        let failed: Vec<ReadyCheck> = checks.filter(|check| !check.ok).collect();
        if failed.is_empty() {
            return print_progress("Ready.");
        }
        let names: Vec<&str> = failed.iter().map(|check| check.name).collect();
        if names != printed {
            print_progress(&not_ready(&failed));
            printed = names;
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// `Not ready: data folder: writable, 13.0 GiB free; 1.0 TiB must stay free.`
fn not_ready(failed: &[ReadyCheck]) -> String {
    let reasons: Vec<_> =
        failed.iter().map(|check| format!("{}: {}", check.name, check.finding)).collect();
    format!(
        "Not ready: {}. The server runs, and prints \"Ready.\" when it can accept a pull.",
        reasons.join("; ")
    )
}
