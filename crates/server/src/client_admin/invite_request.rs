//! The request for invites: one client, a list of clients, or a group.

use std::collections::BTreeSet;
use std::time::Duration;

use filepull_core::human;
use filepull_core::id::ClientId;
use filepull_core::invite::{DEFAULT_VALIDITY, GroupName, Invitee, MAX_VALIDITY};
use filepull_core::problem::{Code, Problem};
use serde::Deserialize;

use crate::client::Labels;

/// Maximum number of clients in one request.
const MAX_INVITES: usize = 100_000;

/// Maximum number of uses of a group invite.
const MAX_USES: u32 = 100_000;

/// Bounds of the labels of a client.
const MAX_LABELS: usize = 32;
const MAX_LABEL_NAME: usize = 64;
const MAX_LABEL_VALUE: usize = 256;

/// A valid request.
#[derive(Clone, Debug)]
pub(crate) struct InviteRequest {
    pub(crate) invites: Vec<RequestedInvite>,
    pub(crate) valid_for: Duration,
    /// The caller named a list, and gets one.
    pub(crate) is_list: bool,
}

/// One requested invite.
#[derive(Clone, Debug)]
pub(crate) struct RequestedInvite {
    pub(crate) invitee: Invitee,
    pub(crate) uses: u32,
    pub(crate) approve: bool,
    pub(crate) replace: bool,
    pub(crate) labels: Labels,
}

/// The request as JSON. Exactly one of `client`, `clients` and `group` is given.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRequest {
    client: Option<String>,
    clients: Option<Vec<RawClient>>,
    group: Option<String>,
    uses: Option<u32>,
    #[serde(default)]
    approve: bool,
    #[serde(default)]
    replace: bool,
    expires: Option<RawTime>,
    #[serde(default)]
    labels: Labels,
}

/// A client of a list: its id, or its id and its labels.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RawClient {
    Id(String),
    Labelled {
        client: String,
        #[serde(default)]
        labels: Labels,
    },
}

/// A time in seconds, or as text such as `24h`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RawTime {
    Seconds(u64),
    Text(String),
}

const EXAMPLE: &str =
    r#"For example: {"client": "client4", "expires": "24h", "labels": {"region": "south"}}"#;

impl InviteRequest {
    /// Parses a request.
    ///
    /// # Errors
    /// Names the field that is wrong.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Problem> {
        let raw: RawRequest = serde_json::from_slice(body)
            .map_err(|error| invalid(format!("The body is not a request for invites: {error}.")))?;
        let valid_for = validity(raw.expires.as_ref())?;
        check_labels(&raw.labels)?;
        let RawRequest { client, clients, group, uses, approve, replace, labels, .. } = raw;
        let of_client = |client: String, own: Labels| {
            let id = ClientId::parse(&client).map_err(|error| invalid(error.to_string()))?;
            check_labels(&own)?;
            let labels = labels.iter().map(|(k, v)| (k.clone(), v.clone())).chain(own).collect();
            let invitee = Invitee::Client(id);
            Ok(RequestedInvite { invitee, uses: 1, approve, replace, labels })
        };
        let is_list = clients.is_some();
        let invites = match (client, clients, group) {
            (Some(client), None, None) => vec![of_client(client, Labels::new())?],
            (None, Some(clients), None) => list(clients, of_client)?,
            (None, None, Some(group)) => {
                let invitee = Invitee::Group(parse_group(&group, replace)?);
                let uses = parse_uses(uses)?;
                vec![RequestedInvite { invitee, uses, approve, replace, labels }]
            }
            _ => {
                let detail = "Give exactly one of \"client\", \"clients\" and \"group\".";
                return Err(invalid(detail));
            }
        };
        Ok(Self { invites, valid_for, is_list })
    }
}

/// Parses a list of clients, each of which may be named once.
fn list(
    clients: Vec<RawClient>,
    of_client: impl Fn(String, Labels) -> Result<RequestedInvite, Problem>,
) -> Result<Vec<RequestedInvite>, Problem> {
    if clients.is_empty() || MAX_INVITES < clients.len() {
        return Err(invalid(format!("\"clients\" must name 1 to {MAX_INVITES} clients.")));
    }
    let mut seen = BTreeSet::new();
    let parse = |raw| {
        let (client, labels) = match raw {
            RawClient::Id(client) => (client, Labels::new()),
            RawClient::Labelled { client, labels } => (client, labels),
        };
        if !seen.insert(client.to_ascii_lowercase()) {
            let client = human::printable(&client, 80);
            return Err(invalid(format!("\"clients\" names {client:?} twice.")));
        }
        of_client(client, labels)
    };
    clients.into_iter().map(parse).collect()
}

fn parse_group(group: &str, replace: bool) -> Result<GroupName, Problem> {
    if replace {
        return Err(invalid("An invite for a group cannot replace a key."));
    }
    GroupName::parse(group).ok_or_else(|| {
        let group = human::printable(group, 80);
        invalid(format!(
            "{group:?} is not a name of a group: 1-64 letters, digits, dot, dash or underscore."
        ))
    })
}

fn parse_uses(uses: Option<u32>) -> Result<u32, Problem> {
    uses.filter(|uses| (1..=MAX_USES).contains(uses)).ok_or_else(|| {
        invalid(format!("A group needs \"uses\": how many clients it enrols, 1 to {MAX_USES}."))
    })
}

fn validity(expires: Option<&RawTime>) -> Result<Duration, Problem> {
    let default = DEFAULT_VALIDITY.to_std().unwrap_or_default();
    let max = MAX_VALIDITY.to_std().unwrap_or_default();
    let time = match expires {
        None => default,
        Some(RawTime::Seconds(seconds)) => Duration::from_secs(*seconds),
        Some(RawTime::Text(text)) => human::parse_duration(text)
            .map_err(|error| invalid(format!("\"expires\" is not a time: {error}.")))?,
    };
    if Duration::from_secs(1) <= time && time <= max {
        return Ok(time);
    }
    let max = human::span(max);
    Err(invalid(format!("\"expires\" must be at least 1 s and at most {max}.")))
}

fn check_labels(labels: &Labels) -> Result<(), Problem> {
    let is_name = |name: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
        (1..=MAX_LABEL_NAME).contains(&name.len()) && name.chars().all(allowed)
    };
    let is_value =
        |value: &str| value.len() <= MAX_LABEL_VALUE && !value.chars().any(char::is_control);
    if MAX_LABELS < labels.len() {
        return Err(invalid(format!("A client has at most {MAX_LABELS} labels.")));
    }
    match labels.iter().find(|(name, value)| !is_name(name) || !is_value(value)) {
        None => Ok(()),
        Some((name, _)) => {
            let name = human::printable(name, 80);
            Err(invalid(format!(
                "The label {name:?} is not valid: a name has 1-{MAX_LABEL_NAME} letters, digits, dot, \
                 dash, underscore or slash, a value at most {MAX_LABEL_VALUE} bytes without control \
                 characters."
            )))
        }
    }
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidRequest, detail).hint(EXAMPLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(body: &str) -> Result<InviteRequest, String> {
        InviteRequest::parse(body.as_bytes()).map_err(|problem| problem.detail)
    }

    #[test]
    fn a_client_a_list_and_a_group_are_requested() {
        let one = parsed(r#"{"client":"client4","labels":{"region":"south"}}"#).unwrap();
        assert_eq!(one.valid_for, Duration::from_hours(24));
        assert_eq!(one.invites[0].labels["region"], "south");
        let list = r#"{"clients":["a1",{"client":"a2","labels":{"region":"north"}}],
            "labels":{"region":"south","chain":"x"},"expires":"30d","replace":true}"#;
        let list = parsed(list).unwrap();
        assert_eq!(list.valid_for, Duration::from_hours(30 * 24));
        let regions = list.invites.iter().map(|invite| invite.labels["region"].as_str());
        assert_eq!(regions.collect::<Vec<_>>(), ["south", "north"]);
        assert!(list.invites.iter().all(|invite| invite.replace && invite.labels["chain"] == "x"));
        let group = parsed(r#"{"group":"tills","uses":500,"approve":true,"expires":60}"#).unwrap();
        assert!(group.invites[0].uses == 500 && group.invites[0].approve);
    }

    #[test]
    fn a_wrong_request_is_rejected_with_the_field() {
        let check = |body: &str, detail: &str| {
            let error = parsed(body).unwrap_err();
            assert!(error.contains(detail), "{body}: {error}");
        };
        check("", "not a request");
        check("{}", "exactly one");
        check(r#"{"client":"a","group":"b"}"#, "exactly one");
        check(r#"{"client":"../x"}"#, "not a client id");
        check(r#"{"clients":[]}"#, "1 to 100000");
        check(r#"{"clients":["a","A"]}"#, "twice");
        check(r#"{"client":"a","expires":"31d"}"#, "at most 30 d");
        check(r#"{"client":"a","expires":0}"#, "at least 1 s");
        check(r#"{"client":"a","expires":"soon"}"#, "not a time");
        check(r#"{"group":"tills"}"#, "uses");
        check(r#"{"group":"a/b","uses":1}"#, "not a name");
        check(r#"{"group":"tills","uses":2,"replace":true}"#, "cannot replace");
        check(r#"{"client":"a","labels":{"a b":"x"}}"#, "label");
        check(r#"{"client":"a","role":"admin"}"#, "role");
    }
}
