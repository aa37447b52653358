//! `filepull approve`, `forget` and `rotate`: what an operator does with a client that is enrolled.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::process::ExitCode;

use filepull_core::fingerprint::Fingerprint;
use filepull_core::human::printable;
use filepull_core::id::ClientId;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::{self, ApiArgs, ApiClient, CommandError, EXIT_CODES};
use crate::output::{print, print_json, print_note, table};

/// Command line of `filepull approve`, unvalidated.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ApproveArgs {
    /// Id of the client. Without it, the clients that wait are listed.
    #[arg(value_name = "ID")]
    client: Option<ClientId>,
    /// Approve only if the client has this key, as `filepull-agent status` prints it on the client.
    #[arg(long, value_name = "SHA256:...", value_parser = parse_fingerprint, requires = "client")]
    fingerprint: Option<Fingerprint>,
    #[command(flatten)]
    api: ApiArgs,
}

/// Command line of `filepull forget`, unvalidated.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct ForgetArgs {
    /// Id of the client.
    #[arg(value_name = "ID")]
    client: ClientId,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    api: ApiArgs,
}

/// Command line of `filepull rotate`, unvalidated.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct RotateArgs {
    /// Id of the client.
    #[arg(value_name = "ID")]
    client: ClientId,
    #[command(flatten)]
    api: ApiArgs,
}

/// What an operator compares before a client is approved.
#[derive(Debug, Deserialize)]
struct EnrolledClient {
    id: String,
    #[serde(default)]
    pending: bool,
    fingerprint: Option<String>,
    remote_addr: Option<String>,
    agent: Option<EnrolledAgent>,
}

#[derive(Debug, Deserialize)]
struct EnrolledAgent {
    hostname: Option<String>,
}

#[derive(Debug, Deserialize)]
struct EnrolledClients {
    items: Vec<EnrolledClient>,
    next_cursor: Option<String>,
}

impl EnrolledClient {
    /// `till-7`, its fingerprint, where it connected from, and the name of its machine.
    fn row(&self) -> [String; 4] {
        let hostname = self.agent.as_ref().and_then(|agent| agent.hostname.as_ref());
        let cells =
            [Some(&self.id), self.fingerprint.as_ref(), self.remote_addr.as_ref(), hostname];
        cells.map(|cell| printable(cell.map_or("-", String::as_str), 200))
    }
}

/// Approves a client, or lists the clients that wait.
pub(crate) async fn approve(args: &ApproveArgs) -> anyhow::Result<ExitCode> {
    api::run(&args.api, async |api| match &args.client {
        Some(client) => approve_one(args, api, client).await,
        None => list_pending(args, api).await,
    })
    .await
}

async fn approve_one(
    args: &ApproveArgs,
    api: &ApiClient,
    client: &ClientId,
) -> Result<(), CommandError> {
    if let Some(expected) = &args.fingerprint {
        check_key(api, client, expected).await?;
    }
    let answer: Value = api.post(&format!("{}/approve", path_of(client)), &json!({})).await?;
    if args.api.json {
        return Ok(print_json(&answer)?);
    }
    let approved: EnrolledClient = serde_json::from_value(answer).map_err(anyhow::Error::new)?;
    print(&format!("Approved: {}", approved.row().join("  ")))?;
    Ok(())
}

/// Rejects a client with another key than the operator has seen on its machine. Only a new invite could
/// give it another key between this check and the approval.
async fn check_key(
    api: &ApiClient,
    client: &ClientId,
    expected: &Fingerprint,
) -> Result<(), CommandError> {
    let found: EnrolledClient = api.get(&path_of(client)).await?;
    match found.fingerprint.as_deref().and_then(Fingerprint::parse) {
        Some(fingerprint) if fingerprint == *expected => Ok(()),
        _ => Err(CommandError::usage(format!(
            "{client} has another key: {}. It was not approved.",
            found.row()[1]
        ))),
    }
}

fn path_of(client: &ClientId) -> String {
    format!("/api/v1/clients/{client}")
}

async fn list_pending(args: &ApproveArgs, api: &ApiClient) -> Result<(), CommandError> {
    let mut cursor = String::new();
    let mut rows = Vec::new();
    loop {
        let page: EnrolledClients =
            api.get(&format!("/api/v1/clients?state=pending&limit=1000{cursor}")).await?;
        let pending = page.items.iter().filter(|client| client.pending);
        rows.extend(pending.map(EnrolledClient::row));
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    if args.api.json {
        let object = |[id, fingerprint, remote_addr, hostname]: &[String; 4]| json!({ "id": id, "fingerprint": fingerprint, "remote_addr": remote_addr, "hostname": hostname });
        return Ok(print_json(&rows.iter().map(object).collect())?);
    }
    if rows.is_empty() {
        print_note("No client waits for approval.");
        return Ok(());
    }
    print(table(&rows).trim_end())?;
    print_note(
        "Compare each fingerprint with `filepull-agent status` on the machine, then: filepull approve ID",
    );
    Ok(())
}

/// Removes a client: its key stops working at once.
pub(crate) async fn forget(args: &ForgetArgs) -> anyhow::Result<ExitCode> {
    let client = &args.client;
    api::run(&args.api, async |api| {
        if !args.yes {
            confirm(&format!(
                "Forget {client}? Its session ends, and its key is never accepted again. Its downloads stay."
            ))?;
        }
        api.delete(&path_of(client)).await?;
        if args.api.json {
            return Ok(print_json(&json!({ "id": client, "forgotten": true }))?);
        }
        print(&format!("Forgotten: {client}. To enrol it again: filepull invite {client}"))?;
        Ok(())
    })
    .await
}

/// Lets a client make a new key over its session.
pub(crate) async fn rotate(args: &RotateArgs) -> anyhow::Result<ExitCode> {
    let client = &args.client;
    api::run(&args.api, async |api| {
        let answer: Value = api.post(&format!("{}/rotate", path_of(client)), &json!({})).await?;
        if args.api.json {
            return Ok(print_json(&answer)?);
        }
        print(&format!("Requested: {client} makes a new key and sends it over its session."))?;
        print_note(
            "The old key works until the new one is on record; `clients` shows the fingerprint.",
        );
        Ok(())
    })
    .await
}

/// Asks at a terminal. Elsewhere a script must say `--yes`.
fn confirm(question: &str) -> Result<(), CommandError> {
    if !io::stdin().is_terminal() {
        return Err(CommandError::usage(format!(
            "{question}\nTo confirm without a terminal, add --yes."
        )));
    }
    print_note(&format!("{question} [y/N]"));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(anyhow::Error::new)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(CommandError::usage("Nothing was changed.")),
    }
}

fn parse_fingerprint(text: &str) -> Result<Fingerprint, String> {
    Fingerprint::parse(text)
        .ok_or_else(|| "a fingerprint is SHA256: and 64 hexadecimal digits".to_owned())
}
