//! The file of tokens as text: one line for each token and for each user of a proxy.
//!
//! ```text
//! # a comment
//! token ci operator clients=region=south expires=2027-01-31T00:00:00Z created=… sha256=…
//! user alice@example.com admin
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use filepull_core::digest::Digest;
use filepull_core::human;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::token::PREFIX;
use super::{CallerIdentity, Role, SignIn};
use crate::scope::Scope;

/// What a token or a user may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) name: Arc<str>,
    pub(crate) role: Role,
    pub(crate) scope: Scope,
    pub(crate) expires_at: Option<DateTime<Utc>>,
}

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GrantLine {
    pub(crate) grant: Grant,
    pub(crate) holder: GrantHolder,
}

/// Who gets the grant of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GrantHolder {
    /// The caller with the token that has this digest.
    Token { digest: Digest, created_at: Option<DateTime<Utc>> },
    /// The user whom a trusted proxy names.
    User,
}

/// A line that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {number}: {reason}")]
pub struct LineError {
    /// Counted from 1.
    pub(crate) number: usize,
    pub(crate) reason: String,
}

/// All tokens and users of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenTable {
    by_digest: HashMap<Digest, Grant>,
    by_user: HashMap<Arc<str>, Grant>,
}

impl Grant {
    /// Returns who signed in.
    pub(crate) fn identity(&self, sign_in: SignIn) -> CallerIdentity {
        let Self { name, role, scope, .. } = self.clone();
        CallerIdentity { name: Some(name), role, scope, sign_in }
    }

    pub(crate) fn is_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }
}

impl TokenTable {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// The first line that is wrong, or that repeats a name or a token.
    pub(crate) fn parse(text: &str) -> Result<Self, LineError> {
        let mut table = Self::default();
        for GrantLine { grant, holder } in lines(text)? {
            match holder {
                GrantHolder::Token { digest, .. } => table.by_digest.insert(digest, grant),
                GrantHolder::User => table.by_user.insert(Arc::clone(&grant.name), grant),
            };
        }
        Ok(table)
    }

    /// Returns the grant of the token with this digest.
    pub(crate) fn token(&self, digest: &Digest) -> Option<&Grant> {
        // A caller cannot choose the digest of a guess, so the time of the lookup reveals nothing.
        self.by_digest.get(digest)
    }

    /// Returns the grant of a user whom a proxy names.
    pub(crate) fn user(&self, name: &str) -> Option<&Grant> {
        self.by_user.get(name)
    }

    /// Returns what each name may do and with which token, as text that only compares.
    pub(crate) fn summaries(&self) -> BTreeMap<String, String> {
        let token = |(digest, grant): (&Digest, &Grant)| summary(grant, &digest.to_string());
        let user = |grant: &Grant| summary(grant, "user");
        self.by_digest.iter().map(token).chain(self.by_user.values().map(user)).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_digest.is_empty() && self.by_user.is_empty()
    }

    /// Returns whether every token and user has expired.
    pub(crate) fn is_expired(&self, now: DateTime<Utc>) -> bool {
        self.by_digest.values().chain(self.by_user.values()).all(|grant| grant.is_expired(now))
    }
}

fn summary(grant: &Grant, holder: &str) -> (String, String) {
    let Grant { name, role, scope, expires_at } = grant;
    let labels = scope.labels();
    (name.to_string(), format!("{role} {labels:?} {expires_at:?} {holder}"))
}

/// Reads every line that is not empty and not a comment.
///
/// # Errors
/// The first line that is wrong, or that repeats a name or a token.
pub(crate) fn lines(text: &str) -> Result<Vec<GrantLine>, LineError> {
    let mut names = HashSet::new();
    let mut digests = HashSet::new();
    let mut found = Vec::new();
    for (number, text) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let failed = |reason| LineError { number, reason };
        let Some(line) = parse_line(text).map_err(failed)? else { continue };
        let name = &line.grant.name;
        if !names.insert(Arc::clone(name)) {
            return Err(failed(format!("the name {name} is used twice")));
        }
        if let GrantHolder::Token { digest, .. } = line.holder
            && !digests.insert(digest)
        {
            return Err(failed("another line has the same token".to_owned()));
        }
        found.push(line);
    }
    Ok(found)
}

/// Returns the name on a line, if it is the line of a token or a user.
pub(crate) fn name_on(line: &str) -> Option<Arc<str>> {
    parse_line(line).ok().flatten().map(|line| line.grant.name)
}

fn parse_line(line: &str) -> Result<Option<GrantLine>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let kind = words.next().unwrap_or_default();
    if !matches!(kind, "token" | "user") {
        return Err("it must begin with token, user or #".to_owned());
    }
    let name = words.next().ok_or("the name is missing")?;
    if kind == "token" {
        check_token_name(name)?;
    } else {
        check_user_name(name)?;
    }
    let role_name = words.next().ok_or("the role is missing")?;
    let role = Role::parse(role_name).ok_or("the role must be viewer, operator or admin")?;
    let fields = LineFields::parse(words)?;
    let holder = match (kind, fields.digest) {
        ("token", Some(digest)) => GrantHolder::Token { digest, created_at: fields.created_at },
        ("token", None) => return Err("the field sha256 is missing".to_owned()),
        (_, Some(_)) => return Err("a user has no sha256".to_owned()),
        (_, None) => GrantHolder::User,
    };
    let scope = Scope::of(fields.labels);
    let grant = Grant { name: name.into(), role, scope, expires_at: fields.expires_at };
    Ok(Some(GrantLine { grant, holder }))
}

#[derive(Default)]
struct LineFields {
    labels: BTreeMap<String, String>,
    expires_at: Option<DateTime<Utc>>,
    created_at: Option<DateTime<Utc>>,
    digest: Option<Digest>,
}

impl LineFields {
    fn parse<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut fields = Self::default();
        for word in texts {
            if word.contains(PREFIX) {
                return Err("it contains a token; write only its SHA-256, and revoke it".to_owned());
            }
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let is_repeated = match name {
                "clients" => {
                    let label = percent_decode_str(value).decode_utf8();
                    let (key, value) = parse_label(&label.map_err(|_| "a label is not UTF-8")?)?;
                    fields.labels.insert(key, value).is_some()
                }
                "expires" => fields.expires_at.replace(parse_time(name, value)?).is_some(),
                "created" => fields.created_at.replace(parse_time(name, value)?).is_some(),
                "sha256" => {
                    let digest =
                        Digest::parse(value).ok_or("sha256 must be 64 hexadecimal digits")?;
                    fields.digest.replace(digest).is_some()
                }
                other => {
                    let other = human::printable(other, 40);
                    return Err(format!("there is no field {other:?}"));
                }
            };
            if is_repeated {
                return Err(format!("the field {name} is repeated"));
            }
        }
        Ok(fields)
    }
}

fn parse_time(name: &str, value: &str) -> Result<DateTime<Utc>, String> {
    let time = DateTime::parse_from_rfc3339(value);
    let example = "2027-01-31T00:00:00Z";
    time.map(|time| time.to_utc()).map_err(|_| format!("{name} must be a time such as {example}"))
}

/// Parses a label such as `region=south`.
///
/// # Errors
/// It has no `=`, or a name or value that no client can have.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
    let is_name = |name: &str| (1..=128).contains(&name.len()) && name.chars().all(is_letter);
    let is_value = |value: &str| value.len() <= 512 && !value.chars().any(char::is_control);
    match text.split_once('=') {
        Some((key, value)) if is_name(key) && is_value(value) => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err(format!(
            "{:?} is not a label: write NAME=VALUE, such as region=south",
            human::printable(text, 80)
        )),
    }
}

/// Names that the audit gives to others.
const RESERVED: [&str; 2] = ["server", "unknown"];

/// Checks the name of a token.
///
/// # Errors
/// A character or the length is wrong, or records give this name to another caller.
pub(crate) fn check_token_name(name: &str) -> Result<(), String> {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@');
    let is_valid = (1..=64).contains(&name.len())
        && name.chars().all(is_letter)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !is_valid || name.starts_with(PREFIX) {
        return Err("a name is 1-64 letters, digits, dots, dashes, underscores or @".to_owned());
    }
    check_not_reserved(name)
}

fn check_user_name(name: &str) -> Result<(), String> {
    let is_valid = (1..=128).contains(&name.len()) && name.chars().all(|c| c.is_ascii_graphic());
    if !is_valid || name.starts_with(PREFIX) {
        return Err("the name of a user is 1-128 printable ASCII characters".to_owned());
    }
    check_not_reserved(name)
}

/// Rejects an address: records name a caller without a token by the address.
fn check_not_reserved(name: &str) -> Result<(), String> {
    if RESERVED.contains(&name) || name.parse::<IpAddr>().is_ok() {
        return Err(format!("the name {name} is reserved"));
    }
    Ok(())
}

/// The characters of a label that would end its field.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'#');

/// Formats the line of a new token.
pub(crate) fn token_line(grant: &Grant, digest: Digest, created_at: DateTime<Utc>) -> String {
    let Grant { name, role, scope, expires_at } = grant;
    let mut line = format!("token {name} {role}");
    for (key, value) in scope.labels() {
        let value = utf8_percent_encode(&value, ENCODED);
        line.push_str(&format!(" clients={key}={value}"));
    }
    let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    if let Some(expires_at) = expires_at {
        line.push_str(&format!(" expires={}", time(*expires_at)));
    }
    line.push_str(&format!(" created={} sha256={digest}", time(created_at)));
    line
}

#[cfg(test)]
mod tests;
