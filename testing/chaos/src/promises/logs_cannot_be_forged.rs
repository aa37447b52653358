//! S11: texts with line breaks, terminal sequences and extreme lengths in every field that another machine
//! chooses. Each line of a log stays one line.

use std::time::Duration;

use filepull_core::PROTOCOL;
use filepull_core::id::TransferId;
use filepull_proto::v1::agent_control_client::AgentControlClient;
use filepull_proto::v1::agent_message::Kind;
use filepull_proto::v1::{
    AgentMessage, DefaultFile, Error, ErrorCode, Goodbye, Hello, StartTransfer, TransferUpdate,
    transfer_update,
};
use filepull_testkit::Process;
use filepull_testkit::process;
use futures::FutureExt as _;
use hyper::Method;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::fake_server::ControlledServer;
use crate::promise::Promise;
use crate::scenario::Scenario;
use crate::tool;
use crate::trial::Trial;

pub(super) const PROMISE: Promise = Promise {
    id: "S11",
    statement: "Logs cannot be forged: text of another machine never breaks or colors a line.",
    requirements: &[],
    limit: Duration::from_secs(30),
    run: |trial| run(trial).boxed_local(),
};

const ROUNDS: u32 = 4;
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Begins a line that a forger would like to see in the log.
const FORGED: &str = "2026-01-01T00:00:00Z ERROR forged";
/// A message of an agent has at most 64 KiB.
const LONG: usize = 60_000;
/// Longer than any message and any header: 1 MiB.
const TOO_LONG: usize = 1 << 20;

async fn run(trial: &Trial) -> anyhow::Result<()> {
    for format in ["json", "text"] {
        let settings = [("LOG_LEVEL", "trace,h2=info,hyper=info")];
        let mut scenario = Scenario::prepare(trial, &settings).await?;
        scenario.start_server().await?;
        if format == "text" {
            // The ready line is read as JSON, so the format changes for the agent only.
            let tried = try_agent(trial).await;
            scenario.explain("the log of an agent", tried)?;
            scenario.teardown().await?;
            continue;
        }
        scenario.server_process()?.says("Ready.").await?;
        // The lines of the start are for people.
        let n_lines = scenario.server_process()?.said().len();
        for round in 0..trial.times(ROUNDS) {
            for text in hostile_texts() {
                let tried = try_server(trial, &scenario, &text, round, n_lines).await;
                scenario.explain("the log of the server", tried)?;
            }
        }
        let server = scenario.server_process()?;
        server.terminate()?;
        scenario.wait_until_server_ended().await?;
        scenario.teardown().await?;
    }
    Ok(())
}

fn hostile_texts() -> Vec<String> {
    vec![
        format!("x\r\n{FORGED}"),
        format!("x\n{{\"level\":\"ERROR\",\"event\":\"{FORGED}\"}}"),
        "\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31m".to_owned(),
        "\u{202e}gnp.exe\u{2066}\u{200f}\u{2028}\u{85}".to_owned(),
        "\0\u{7f}\u{8}\u{8}\t".to_owned(),
        "\"}\\\",\"event\":\"forged".to_owned(),
        "x".repeat(LONG),
        format!("{}\n{FORGED}", "y".repeat(TOO_LONG)),
    ]
}

/// Puts the text into every field of an agent and of a request, then checks each line of the log.
async fn try_server(
    trial: &Trial,
    scenario: &Scenario,
    text: &str,
    round: u32,
    n_lines: usize,
) -> anyhow::Result<()> {
    for id in [format!("client{round}"), text.to_owned()] {
        let address = format!("http://{}", scenario.server.grpc());
        let channel = Channel::from_shared(address)?.connect().await?;
        let (sender, messages) = mpsc::channel(8);
        for kind in agent_messages(&id, text) {
            let _ = sender.send(AgentMessage { kind: Some(kind) }).await;
        }
        let session = AgentControlClient::new(channel).session(ReceiverStream::new(messages)).await;
        if let Ok(session) = session {
            let mut answers = session.into_inner();
            while let Ok(Ok(Some(_))) = timeout(ANSWER_LIMIT / 20, answers.message()).await {}
        }
        trial.counters.fault("hostile agents");
    }
    let printable: String = text.chars().filter(|c| c.is_ascii_graphic()).take(5000).collect();
    let encoded: String = text.bytes().take(2000).map(|byte| format!("%{byte:02x}")).collect();
    for path in
        [format!("/trigger?id={encoded}"), format!("/{encoded}"), format!("/trigger?{encoded}")]
    {
        let headers = [("user-agent", printable.as_str()), ("x-request-id", &printable)];
        let _ = scenario.server.send(Method::GET, &path, &headers, "").await;
        trial.counters.fault("hostile requests");
    }
    check_json(scenario.server_process()?, n_lines)
}

fn agent_messages(id: &str, text: &str) -> Vec<Kind> {
    let text = text.to_owned();
    let hello = Hello {
        client_id: id.to_owned(),
        instance_id: vec![7; 16].into(),
        protocol_min: *PROTOCOL.start(),
        protocol_max: *PROTOCOL.end(),
        hostname: text.clone(),
        os: text.clone(),
        arch: text.clone(),
        agent_version: text.clone(),
        shares: vec![text.clone()],
        capabilities: vec![text.clone()],
        default_file: Some(DefaultFile { name: text.clone(), ..DefaultFile::default() }),
        ..Hello::default()
    };
    let error =
        Error { code: ErrorCode::ReadFailed.into(), message: text.clone(), ..Error::default() };
    let update = TransferUpdate {
        transfer_id: text.clone(),
        attempt: 1,
        state: Some(transfer_update::State::Failed(error)),
    };
    vec![Kind::Hello(hello), Kind::Transfer(update), Kind::Goodbye(Goodbye { reason: text })]
}

/// Each line is one JSON object without a raw control character.
fn check_json(process: &Process, n_lines: usize) -> anyhow::Result<()> {
    for line in process.said().into_iter().skip(n_lines) {
        let object: Result<Value, _> = serde_json::from_str(&line);
        anyhow::ensure!(object.is_ok_and(|object| object.is_object()), "not JSON: {line:?}");
        check_characters(&line)?;
    }
    Ok(())
}

fn check_characters(line: &str) -> anyhow::Result<()> {
    let raw = line.chars().find(|c| c.is_control() || "\u{202e}\u{2066}\u{2028}".contains(*c));
    let shown: String = line.chars().take(300).collect();
    anyhow::ensure!(raw.is_none(), "the raw character {raw:?} is in the line {shown:?}");
    Ok(())
}

/// The log of an agent, as text, whose server is hostile.
async fn try_agent(trial: &Trial) -> anyhow::Result<()> {
    let mut server = ControlledServer::start().await?;
    let folder = tempfile::tempdir_in(trial.sandbox.folder())?;
    let data = folder.path().join("data.txt");
    std::fs::write(&data, "data")?;
    let mut command = tool::command(&trial.sandbox, &trial.programs.agent.display().to_string());
    command.arg("run").envs([
        ("CLIENT_ID", "client1"),
        ("SERVER_ADDR", &format!("http://{}", server.addr)),
        ("FILE_PATH", &data.display().to_string()),
        ("STATE_DIR", &folder.path().join("state").display().to_string()),
        ("LOG_LEVEL", "trace,h2=info,hyper=info"),
        ("NO_COLOR", "1"),
    ]);
    let agent = process::Process::spawn(command)?;
    let mut session = server.session().await?;
    for text in hostile_texts().into_iter().filter(|text| text.len() <= LONG) {
        for (path, requested_by) in [(text.clone(), String::new()), (String::new(), text)] {
            let order = StartTransfer {
                transfer_id: TransferId::generate().to_string(),
                attempt: 1,
                path,
                requested_by,
                upload_token: vec![7; 16].into(),
                ..StartTransfer::default()
            };
            session.order(order).await?;
            let answered = session.update(Duration::from_secs(10)).await;
            anyhow::ensure!(answered.is_some(), "the agent does not answer");
            trial.counters.fault("hostile orders");
        }
    }
    for line in agent.said() {
        check_characters(&line)?;
        let is_own = line.get(..4).is_some_and(|year| year.parse::<u16>().is_ok());
        anyhow::ensure!(is_own && !line.starts_with(FORGED), "a forged line: {line:?}");
    }
    Ok(())
}
