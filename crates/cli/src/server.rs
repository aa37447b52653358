//! `filepull server`.

use filepull_process::signal;
use filepull_server::config::AgentAuth;
use filepull_server::{Args, Config, Server, VERSION};

use crate::{free, say};

/// Serves until Ctrl-C or SIGTERM.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let open_said_aloud = args.agent_auth == AgentAuth::Open;
    let config = Config::try_from(args)?;
    let data_dir = config.data_dir.display().to_string();
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
    let free = free(&server);
    say(&format!(
        "filepull server {VERSION}\n\
         \x20 pages    http://{http}\n\
         \x20 agents   {grpc}  ({reach})\n\
         \x20 files    {data_dir}  ({free})\n\
         \x20 sign-in  {sign_in}\n\
         Add a client:  CLIENT_ID=client1 SERVER_ADDR={dial} FILE_PATH=menu.txt filepull-agent\n\
         Ready."
    ));
    server.run_until(asked_to_stop).await
}
