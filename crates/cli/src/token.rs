//! `filepull token`: creates, lists and revokes the tokens of the HTTP API.
//!
//! It edits the file of the tokens, not a server: the first token must exist before a server that
//! needs one can start. A running server reads the file again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use filepull_core::human::{self, parse_duration};
use filepull_server::access::token_editor::{self, NewToken, TokenEditError, TokenInfo};
use filepull_server::access::{Role, parse_label};
use filepull_server::config::default_tokens_file;
use filepull_server::data_folder::RECORDS_FOLDER;
use serde_json::{Value, json};

use crate::output::{print, print_error, print_note, table};

/// Command line of `filepull token`, unvalidated.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: TokenAction,
}

#[derive(Debug, Subcommand)]
enum TokenAction {
    /// Create a token and print it; it cannot be shown again.
    Create(CreateArgs),
    /// List the tokens: role, clients, expiry and last use, never the token.
    List(ListArgs),
    /// Revoke a token; a running server rejects it within a second.
    Revoke(RevokeArgs),
}

/// Where the tokens are.
#[derive(Debug, clap::Args)]
struct FileArgs {
    /// Folder of the downloads and the records of the server.
    #[arg(long, env = "DATA_DIR", default_value = "server-data")]
    data_dir: PathBuf,
    /// File of the tokens [default: .filepull/tokens in DATA_DIR].
    #[arg(long, env = "TOKENS_FILE", value_name = "FILE")]
    tokens_file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// Name of the token, which the records show for each request with it.
    name: String,
    /// What its holder may do: a viewer reads lists and pages, an operator also pulls, cancels and
    /// gets files, an admin also invites and forgets clients.
    #[arg(long)]
    role: Role,
    /// Label of the clients that its holder may see, such as region=south; may be repeated, and a
    /// client must have every label [default: all clients].
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_label)]
    clients: Vec<(String, String)>,
    /// How long it is valid, such as 90d [default: no end].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    expires: Option<Duration>,
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Debug, clap::Args)]
struct RevokeArgs {
    /// Name of the token, or of a user whom a proxy signs in.
    name: String,
    #[command(flatten)]
    file: FileArgs,
}

/// Exit code for a name that exists already or is not valid.
const INVALID: u8 = 2;

/// Exit code for a name that does not exist.
const UNKNOWN: u8 = 4;

/// Edits the file, and prints the result.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let result = match args.action {
        TokenAction::Create(args) => create(args),
        TokenAction::List(args) => list(&args.file).await,
        TokenAction::Revoke(args) => revoke(&args),
    };
    let Err(error) = result else { return Ok(ExitCode::SUCCESS) };
    let code = match error.downcast_ref() {
        Some(TokenEditError::Unknown(_)) => UNKNOWN,
        Some(TokenEditError::Name { .. } | TokenEditError::Exists(_) | TokenEditError::Expiry) => {
            INVALID
        }
        Some(TokenEditError::File(_) | TokenEditError::Random) | None => return Err(error),
    };
    print_error(&error);
    Ok(ExitCode::from(code))
}

impl FileArgs {
    fn path(&self) -> PathBuf {
        self.tokens_file.clone().unwrap_or_else(|| default_tokens_file(&self.data_dir))
    }
}

fn create(args: CreateArgs) -> anyhow::Result<()> {
    let CreateArgs { name, role, clients, expires, file } = args;
    let path = file.path();
    let clients = clients.into_iter().collect();
    let new = NewToken { name, role, clients, expires };
    let created = token_editor::create(&path, &new, Utc::now())?;
    let NewToken { name, role, clients, .. } = &new;
    if file.json {
        let token = json!({
            "name": name,
            "role": role,
            "clients": clients,
            "expires_at": created.expires_at.map(rfc3339),
            "token": created.secret,
        });
        return print(&pretty(&token));
    }
    print(&created.secret)?;
    print_note(&format!(
        "Keep it: it is not shown again. {name} is in {}, which a running server reads within a second.\n\
         Use it: curl -H \"Authorization: Bearer TOKEN\" ...",
        path.display()
    ));
    Ok(())
}

fn revoke(args: &RevokeArgs) -> anyhow::Result<()> {
    let RevokeArgs { name, file } = args;
    token_editor::revoke(&file.path(), name)?;
    if file.json {
        return print(&pretty(&json!({ "name": name, "revoked": true })));
    }
    print(&format!("{name} is revoked. A running server rejects it within a second."))
}

async fn list(file: &FileArgs) -> anyhow::Result<()> {
    let path = file.path();
    let tokens = token_editor::list(&path)?;
    let uses = last_uses(&file.data_dir).await;
    let now = Utc::now();
    let last_use = |token: &TokenInfo| {
        let last = uses.get(&token.name).copied();
        // An older use was of a revoked token with the same name.
        last.filter(|&last| token.created_at.is_none_or(|created| created <= last))
    };
    if file.json {
        let items: Vec<Value> =
            tokens.iter().map(|token| to_json(token, last_use(token), now)).collect();
        return print(&pretty(&json!({ "items": items })));
    }
    if tokens.is_empty() {
        let next = "filepull token create NAME --role viewer|operator|admin";
        return print(&format!("There is no token in {}. Make one: {next}", path.display()));
    }
    let header = ["NAME", "ROLE", "CLIENTS", "EXPIRES", "LAST USED"].map(str::to_owned);
    let rows = tokens.iter().map(|token| row(token, last_use(token), now));
    let lines: Vec<[String; 5]> = std::iter::once(header).chain(rows).collect();
    print(table(&lines).trim_end())
}

/// Returns the last use of each token. Empty before the first start of a server.
async fn last_uses(data_dir: &Path) -> HashMap<String, DateTime<Utc>> {
    let folder = data_dir.join(RECORDS_FOLDER);
    if !folder.join("records.db").exists() {
        return HashMap::new();
    }
    token_editor::last_uses(&folder).await.unwrap_or_else(|error| {
        print_note(&format!("The last use of the tokens is unknown: {error}"));
        HashMap::new()
    })
}

fn row(token: &TokenInfo, last_use: Option<DateTime<Utc>>, now: DateTime<Utc>) -> [String; 5] {
    let kind = if token.is_user { " (user)" } else { "" };
    let expires = match token.expires_at {
        None => "never".to_owned(),
        Some(at) if at <= now => format!("expired {}", at.format("%Y-%m-%d")),
        Some(at) => at.format("%Y-%m-%d %H:%M UTC").to_string(),
    };
    let last_use = last_use.map_or_else(
        || "never".to_owned(),
        |at| {
            let ago = (now - at).to_std().unwrap_or_default();
            format!("{} ago", human::span(ago))
        },
    );
    [format!("{}{kind}", token.name), token.role.to_string(), labels(token), expires, last_use]
}

fn labels(token: &TokenInfo) -> String {
    if token.clients.is_empty() {
        return "all".to_owned();
    }
    let labels: Vec<String> =
        token.clients.iter().map(|(name, value)| format!("{name}={value}")).collect();
    labels.join(" ")
}

fn to_json(token: &TokenInfo, last_use: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Value {
    json!({
        "name": token.name,
        "kind": if token.is_user { "user" } else { "token" },
        "role": token.role,
        "clients": token.clients,
        "created_at": token.created_at.map(rfc3339),
        "expires_at": token.expires_at.map(rfc3339),
        "expired": token.expires_at.is_some_and(|at| at <= now),
        "last_used_at": last_use.map(rfc3339),
    })
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

fn pretty(value: &Value) -> String {
    format!("{value:#}")
}
