//! `filepull server`.

use std::time::Duration;

use filepull_process::signal;
use filepull_server::config::AgentAuth;
use filepull_server::data_folder::RECORDS_FOLDER;
use filepull_server::readiness::{Readiness, ReadyCheck};
use filepull_server::{Args, Config, Server, VERSION};
use tokio::time::sleep;

use crate::free;
use crate::output::say;

/// Serves until Ctrl-C or SIGTERM.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let open_said_aloud = args.agent_auth == AgentAuth::Open;
    let config = Config::try_from(args)?;
    let data_dir = config.data_dir.display().to_string();
    // An unmounted disk has this effect: an old server on an empty folder looks like a new one.
    let is_new = !config.data_dir.join(RECORDS_FOLDER).join("records.db").exists();
    // Before the first word: whoever hears "Ready." may ask for the end.
    let asked_to_stop = signal::shutdown()?;
    let server = Server::bind(config).await?;
    let (http, grpc) = (server.http_addr()?, server.grpc_addr()?);
    let reach = match (grpc.ip().is_loopback(), open_said_aloud) {
        (true, _) => "this machine only; others: --grpc-addr 0.0.0.0:50051 --agent-auth open",
        (false, true) => "any agent may take any free id",
        (false, false) => "",
    };
    let sign_in = if http.ip().is_loopback() {
        "off, because only this machine can connect"
    } else {
        "off, as HTTP_AUTH=none says: everybody who reaches this address may pull"
    };
    let dial = match grpc.ip().is_unspecified() {
        true => format!("this-machine:{}", grpc.port()),
        false => grpc.to_string(),
    };
    let free = free(&server).await;
    let records = if is_new { "; no records yet" } else { "" };
    say(&format!(
        "filepull server {VERSION}\n\
         \x20 pages    http://{http}\n\
         \x20 agents   {grpc}  ({reach})\n\
         \x20 files    {data_dir}  ({free}{records})\n\
         \x20 sign-in  {sign_in}\n\
         Add a client:  CLIENT_ID=client1 SERVER_ADDR={dial} FILE_PATH=menu.txt filepull-agent"
    ));
    let readiness = server.readiness()?;
    let serving = server.run_until(asked_to_stop);
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => return served,
        () = say_when_ready(&readiness) => {}
    }
    serving.await
}

/// A server that is not ready is looked at again after this time.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Says "Ready." once pulls can be taken; until then, what is in their way.
async fn say_when_ready(readiness: &Readiness) {
    let mut said = Vec::new();
    loop {
        let missing = readiness.check().await.into_iter().filter(|check| !check.ok);
        let missing: Vec<ReadyCheck> = missing.collect();
        if missing.is_empty() {
            return say("Ready.");
        }
        let names: Vec<&str> = missing.iter().map(|check| check.name).collect();
        if names != said {
            say(&not_ready(&missing));
            said = names;
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// `Not ready: data folder: writable, 13.0 GiB free; 1.0 TiB must stay free.`
fn not_ready(missing: &[ReadyCheck]) -> String {
    let missing = missing.iter().map(|check| format!("{}: {}", check.name, check.finding));
    let missing = missing.collect::<Vec<_>>().join("; ");
    format!("Not ready: {missing}. The server runs, and says \"Ready.\" once it can take a pull.")
}
