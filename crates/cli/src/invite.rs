//! `filepull invite`: makes the strings that enrol new clients.
//!
//! A string is printed once, on standard output. The server keeps only the hash of its secret.

mod install;
mod list;

use std::path::PathBuf;
use std::process::ExitCode;

use chrono::TimeDelta;
use clap::{ArgGroup, ValueEnum};
use filepull_core::human::{parse_duration, printable};
use filepull_core::id::ClientId;
use filepull_core::invite::{GroupName, MAX_VALIDITY};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::{self, ApiArgs, ApiClient, CommandError};
use crate::output::{print, print_json, print_note};
use list::{InvitedClient, Labels};

/// Command line of `filepull invite`, unvalidated.
#[derive(Debug, clap::Args)]
#[command(
    after_help = EXAMPLES,
    group = ArgGroup::new("recipient").required(true).args(["client", "from", "group"])
)]
pub(crate) struct Args {
    /// Id of the new client.
    #[arg(value_name = "ID")]
    client: Option<ClientId>,
    /// CSV file with a client in each line (`-` is standard input): the column id, further columns are
    /// labels. All invites are made, or none.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Make one invite for several clients, for a disk image. Each client chooses its id and is pending until
    /// `filepull approve ID`.
    #[arg(long, value_name = "NAME", value_parser = parse_group, requires = "uses")]
    group: Option<GroupName>,
    /// How many clients the invite of the group enrols.
    #[arg(
        long, value_name = "N", requires = "group",
        value_parser = clap::value_parser!(u32).range(1..=100_000)
    )]
    uses: Option<u32>,
    /// The client is pending until `filepull approve ID`; always so with --group.
    #[arg(long)]
    approve: bool,
    /// How long the invite is valid: at most 30d.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_validity)]
    expires: String,
    /// Label of the client; may be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Also print the command that installs the agent.
    #[arg(long, value_enum, conflicts_with_all = ["from", "json"])]
    os: Option<InstallTarget>,
    /// Replace the key of a client that exists, for a machine that was set up again. The old key stops
    /// working when the invite is used.
    #[arg(long, conflicts_with = "group")]
    replace: bool,
    #[command(flatten)]
    api: ApiArgs,
}

/// Where the agent is installed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum InstallTarget {
    /// A systemd service.
    Linux,
    /// A container.
    Docker,
}

const EXAMPLES: &str = "\
Standard output has the string alone, so that a script can read it: it is a secret until it is used, is \
printed once, and enrols one client. With --from each line is ID,INVITE beneath a header, or with --json one \
JSON object.

  filepull invite client4
  filepull invite client4 --os docker --label region=south
  filepull invite client4 --replace          (its machine was set up again)
  filepull invite --from stores.csv >invites.csv
  filepull invite --group tills --uses 500   (for a disk image)

Exit codes: 0 done; 1 another failure; 2 wrong usage, a wrong list, or the client exists; 3 signed out or not \
allowed; 7 the server cannot do it now; 9 the server cannot be reached.";

/// What is sent to the server: one client, a list of clients, or a group.
#[derive(Debug, Serialize)]
struct InviteBody<'a> {
    #[serde(flatten)]
    recipient: Recipient<'a>,
    expires: &'a str,
    approve: bool,
    replace: bool,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Recipient<'a> {
    Client { client: &'a ClientId, labels: &'a Labels },
    Clients { clients: &'a [InvitedClient] },
    Group { group: &'a str, uses: u32, labels: &'a Labels },
}

/// An invite that the server has made.
#[derive(Debug, Deserialize)]
struct PrintedInvite {
    client: Option<String>,
    group: Option<String>,
    invite: String,
    expires_at: Option<String>,
}

/// The answer to a list of clients.
#[derive(Debug, Deserialize)]
struct PrintedInvites {
    items: Vec<PrintedInvite>,
}

/// Makes one invite or many, and prints them.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    api::run(&args.api, async |api| match &args.from {
        Some(file) => {
            let clients = list::read(file, &args.labels()?)?;
            args.invite_list(api, &clients).await
        }
        None => args.invite_one(api).await,
    })
    .await
}

impl Args {
    fn labels(&self) -> Result<Labels, CommandError> {
        let mut labels = Labels::new();
        for (key, value) in &self.labels {
            if labels.insert(key.clone(), value.clone()).is_some() {
                return Err(CommandError::usage(format!("--label {key} is given twice")));
            }
        }
        Ok(labels)
    }

    fn request<'a>(&'a self, recipient: Recipient<'a>) -> InviteBody<'a> {
        let approve = self.approve || self.group.is_some();
        InviteBody { recipient, expires: &self.expires, approve, replace: self.replace }
    }

    async fn invite_one(&self, api: &ApiClient) -> Result<(), CommandError> {
        let labels = self.labels()?;
        let recipient = match (&self.client, &self.group) {
            (Some(client), _) => Recipient::Client { client, labels: &labels },
            (None, Some(group)) => Recipient::Group {
                group: group.as_str(),
                uses: self.uses.unwrap_or(1),
                labels: &labels,
            },
            (None, None) => return Err(CommandError::usage("name a client, --from or --group")),
        };
        let answer: Value = api.post(INVITES, &self.request(recipient)).await?;
        if self.api.json {
            return Ok(print_json(&answer)?);
        }
        let new: PrintedInvite = understood(answer)?;
        let invite = new.invite.trim();
        print(invite)?;
        if let Some(target) = self.os {
            print(&format!("\n{}", install::command(target, invite)))?;
        }
        print_note(&self.next_step(&new));
        Ok(())
    }

    async fn invite_list(
        &self,
        api: &ApiClient,
        clients: &[InvitedClient],
    ) -> Result<(), CommandError> {
        let request = self.request(Recipient::Clients { clients });
        let answer = api.post::<Value>(INVITES, &request).await;
        let new: PrintedInvites =
            understood(answer.map_err(|error| self.about_line(error, clients))?)?;
        let lines = match self.api.json {
            true => json_lines(&new.items)?,
            false => csv_lines(&new.items)?,
        };
        print(lines.trim_end())?;
        print_note(&format!(
            "{} invites. Each is a secret that works once; they are not shown again.",
            new.items.len()
        ));
        Ok(())
    }

    /// Adds the line of the list to a problem that names one of its clients.
    fn about_line(&self, error: CommandError, clients: &[InvitedClient]) -> CommandError {
        let CommandError::Problem(problem) = error else { return error };
        let named = problem.text("client");
        let found = clients.iter().find(|client| Some(client.id.as_str()) == named.as_deref());
        match (found, &self.from) {
            (Some(client), Some(file)) => CommandError::Problem(problem.about(&format!(
                "{} line {}",
                file.display(),
                client.line
            ))),
            _ => CommandError::Problem(problem),
        }
    }

    /// `Valid once, until 2026-12-01T08:00:00Z. On client4: INVITE=... filepull-agent`
    fn next_step(&self, new: &PrintedInvite) -> String {
        let until = new
            .expires_at
            .as_deref()
            .map_or(String::new(), |time| format!(", until {}", printable(time, 40)));
        let uses = match self.uses {
            Some(uses) if self.group.is_some() => format!("for {uses} clients"),
            _ => "once".to_owned(),
        };
        let name = new.client.as_deref().or(new.group.as_deref()).unwrap_or("the new client");
        let whom = printable(name, ClientId::MAX_LEN);
        let install = match self.os {
            Some(_) => "",
            None => {
                "\nThere, start the agent with the setting INVITE; --os linux or --os docker prints the commands."
            }
        };
        format!("This invite of {whom} is valid {uses}{until}, and is not shown again.{install}")
    }
}

const INVITES: &str = "/api/v1/invites";

/// Parses the answer. Its secrets are not part of an error.
fn understood<T: DeserializeOwned>(answer: Value) -> Result<T, CommandError> {
    serde_json::from_value(answer).map_err(|_| {
        CommandError::Other(anyhow::anyhow!(
            "the server made the invite, and its answer cannot be understood: update this program"
        ))
    })
}

fn json_lines(invites: &[PrintedInvite]) -> anyhow::Result<String> {
    let mut lines = String::new();
    for new in invites {
        let object =
            json!({ "id": new.client, "invite": new.invite, "expires_at": new.expires_at });
        lines.push_str(&serde_json::to_string(&object)?);
        lines.push('\n');
    }
    Ok(lines)
}

fn csv_lines(invites: &[PrintedInvite]) -> anyhow::Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["id", "invite"])?;
    for new in invites {
        writer.write_record([new.client.as_deref().unwrap_or_default(), &new.invite])?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

/// Checks the time, and returns it as typed: the server reads the same forms.
fn parse_validity(text: &str) -> Result<String, String> {
    let validity = parse_duration(text)?;
    match TimeDelta::from_std(validity) {
        Ok(validity) if validity <= MAX_VALIDITY && TimeDelta::zero() < validity => {
            Ok(text.to_owned())
        }
        _ => Err(format!("{text:?} is out of range: an invite is valid for 1s to 30d")),
    }
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err("write KEY=VALUE, such as region=south".to_owned()),
    }
}

fn parse_group(text: &str) -> Result<GroupName, String> {
    GroupName::parse(text).ok_or_else(|| {
        "the name of a group has 1 to 64 letters, digits, dots, dashes or underscores".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invite_is_valid_for_at_most_thirty_days() {
        for text in ["1s", "90s", "24h", "30d", "3600"] {
            assert_eq!(parse_validity(text).as_deref(), Ok(text));
        }
        for text in ["0", "0s", "31d", "721h", "soon", "-1h", "99999999999999999999d"] {
            assert!(parse_validity(text).is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn a_label_is_a_key_and_a_value() {
        assert_eq!(parse_label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        for text in ["", "a", "=b", "a="] {
            assert!(parse_label(text).unwrap_err().contains("KEY=VALUE"), "{text}");
        }
    }
}
