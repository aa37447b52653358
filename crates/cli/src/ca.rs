//! `filepull ca`: the certificate authority that agents pin, and its rotation without a visit.
//!
//! The server decides what a step may do. Its answer is the state after the step.

use std::process::ExitCode;

use clap::Subcommand;
use filepull_core::human::printable;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::{self, ApiArgs, CommandError};
use crate::output::{print, print_json, print_note, table};

/// Command line of `filepull ca`, unvalidated.
#[derive(Debug, clap::Args)]
#[command(after_help = STEPS)]
pub(crate) struct Args {
    #[command(subcommand)]
    step: Option<RotationCommand>,
    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum RotationCommand {
    /// Create the next authority, and hand its pin to every agent over its session.
    Rotate,
    /// Sign the server's certificate with the next authority, which becomes the current one.
    Switch(ForceArgs),
    /// Remove the previous authority. Agents that know only its pin need a new invite.
    Retire(ForceArgs),
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct ForceArgs {
    /// Also if agents do not have the new pin yet.
    #[arg(long)]
    force: bool,
}

const STEPS: &str = "\
Without a command it shows the authorities, and which agents do not have the newest pin.

A rotation has three steps and needs no visit:
  filepull ca rotate    every agent gets the pin of the next authority
  filepull ca switch    the server uses it, by itself once every agent has the pin; agents with either pin accept it
  filepull ca retire    the old authority goes

An agent that was offline can come back until `retire`. Afterwards it needs a new invite.";

impl RotationCommand {
    fn path(self) -> &'static str {
        match self {
            Self::Rotate => "/api/v1/ca/rotate",
            Self::Switch(_) => "/api/v1/ca/switch",
            Self::Retire(_) => "/api/v1/ca/retire",
        }
    }

    fn body(self) -> Value {
        match self {
            Self::Rotate => json!({}),
            Self::Switch(args) | Self::Retire(args) => json!({ "force": args.force }),
        }
    }
}

const CA: &str = "/api/v1/ca";

/// Performs a step, or shows the state.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    api::run(&args.api, async |api| {
        let answer: Value = match args.step {
            Some(step) => api.post(step.path(), &step.body()).await.map_err(with_flag)?,
            None => api.get(CA).await?,
        };
        if args.api.json {
            print_json(&answer)?;
        } else {
            show(answer)?;
        }
        Ok(())
    })
    .await
}

/// Names the flag of this program instead of the parameter of the API.
fn with_flag(error: CommandError) -> CommandError {
    let CommandError::Problem(problem) = error else { return error };
    CommandError::Problem(problem.replace_in_hint("force=1", "--force"))
}

/// What the server reports about its authorities.
#[derive(Debug, Deserialize)]
struct CaStatus {
    state: String,
    current: Authority,
    next: Option<Authority>,
    previous: Option<Authority>,
    clients: PinCount,
}

#[derive(Debug, Deserialize)]
struct Authority {
    fingerprint: String,
    expires_at: String,
}

/// How many enrolled clients have the newest pin.
#[derive(Debug, Deserialize)]
struct PinCount {
    with_pin: u64,
    without_pin: u64,
    /// Not all of them if there are many.
    without: Vec<String>,
}

/// Maximum number of clients in a line; `--json` shows more.
const MAX_NAMED: usize = 20;

impl CaStatus {
    /// The authorities and the clients.
    fn text(&self) -> String {
        let authorities = [
            ("current", Some(&self.current)),
            ("next", self.next.as_ref()),
            ("previous", self.previous.as_ref()),
        ];
        let rows: Vec<[String; 3]> = authorities
            .into_iter()
            .filter_map(|(name, authority)| {
                let Authority { fingerprint, expires_at } = authority?;
                let until = format!("until {}", printable(expires_at, 40));
                Some([name.to_owned(), printable(fingerprint, 100), until])
            })
            .collect();
        let PinCount { with_pin, without_pin, .. } = self.clients;
        let n_clients = with_pin + without_pin;
        let mut text =
            format!("{}clients  {with_pin} of {n_clients} have the newest pin", table(&rows));
        if 0 < without_pin {
            text.push_str(&format!("\nwithout  {}", self.missing()));
        }
        text
    }

    fn missing(&self) -> String {
        let ids = self.clients.without.iter().take(MAX_NAMED);
        let mut named: Vec<String> = ids.map(|id| printable(id, 64)).collect();
        let n_more = self.clients.without_pin.saturating_sub(named.len() as u64);
        if 0 < n_more {
            named.push(format!("and {n_more} more"));
        }
        named.join(", ")
    }

    /// The next step of a rotation; nothing without one.
    fn next_step(&self) -> Option<&'static str> {
        match (self.state.as_str(), self.clients.without_pin) {
            ("announced", 0) => Some(
                "Every agent has the next pin: the server switches by itself, or with filepull ca switch",
            ),
            ("announced", _) => Some(
                "An agent gets the next pin when it connects. When none is missing, the server switches by itself.",
            ),
            ("switched", 0) => Some("Every agent has the new pin. Next: filepull ca retire"),
            ("switched", _) => Some(
                "An agent gets the new pin when it connects. When none is missing: filepull ca retire",
            ),
            _ => None,
        }
    }
}

fn show(answer: Value) -> anyhow::Result<()> {
    let status: CaStatus = serde_json::from_value(answer)?;
    print(&status.text())?;
    if let Some(step) = status.next_step() {
        print_note(step);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_without_the_pin_are_named_and_counted() {
        let without: Vec<String> = (0..25).map(|number| format!("lyon-{number}")).collect();
        let authority =
            |pin: &str| json!({ "fingerprint": pin, "expires_at": "2036-01-01T00:00:00Z" });
        let answer = json!({
            "state": "announced", "since": "2026-01-01T00:00:00Z",
            "current": authority("SHA256:aa"), "next": authority("SHA256:bb"), "previous": null,
            "clients": { "pin": "SHA256:bb", "with_pin": 5, "without_pin": 30, "without": without },
        });
        let status: CaStatus = serde_json::from_value(answer).unwrap();
        let text = status.text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "current  SHA256:aa  until 2036-01-01T00:00:00Z");
        assert_eq!(lines[1], "next     SHA256:bb  until 2036-01-01T00:00:00Z");
        assert_eq!(lines[2], "clients  5 of 35 have the newest pin");
        assert!(lines[3].starts_with("without  lyon-0, lyon-1, "), "{text}");
        assert!(lines[3].ends_with("lyon-19, and 10 more"), "{text}");
        assert!(status.next_step().unwrap().contains("When none is missing"));
    }
}
