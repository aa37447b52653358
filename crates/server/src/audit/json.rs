//! An audit record as a JSON object: an item of the list, and a line of JSON lines.

use std::borrow::Cow;

use chrono::{DateTime, SecondsFormat, Utc};
use filepull_core::audit::{AuditContent, AuditRecord};
use filepull_core::digest::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The JSON object of an audit record. It holds everything that the digest covers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditRecordJson<'a> {
    seq: u64,
    at: String,
    actor: Cow<'a, str>,
    address: Cow<'a, str>,
    action: Cow<'a, str>,
    subject: Cow<'a, str>,
    /// The object that the detail holds, or the text if it is no JSON.
    detail: Value,
    request_id: Cow<'a, str>,
    previous: String,
    digest: String,
}

impl<'a> From<&'a AuditRecord> for AuditRecordJson<'a> {
    fn from(record: &'a AuditRecord) -> Self {
        let AuditRecord { seq, content, previous, digest } = record;
        let parsed = serde_json::from_str::<Value>(&content.detail).ok();
        // Only a text that JSON restores exactly is shown as an object.
        let is_restored = |value: &Value| {
            let restored = value.to_string();
            value.is_object() && restored == content.detail
        };
        let object = parsed.filter(is_restored);
        Self {
            seq: *seq,
            at: content.at.to_rfc3339_opts(SecondsFormat::Millis, true),
            actor: Cow::Borrowed(&content.actor),
            address: Cow::Borrowed(&content.address),
            action: Cow::Borrowed(&content.action),
            subject: Cow::Borrowed(&content.subject),
            detail: object.unwrap_or_else(|| Value::from(content.detail.as_str())),
            request_id: Cow::Borrowed(&content.request),
            previous: previous.to_string(),
            digest: digest.to_string(),
        }
    }
}

/// Why a line is no audit record.
#[derive(Debug, thiserror::Error)]
pub enum AuditLineError {
    /// The line is not JSON, or has other fields.
    #[error("not an audit record")]
    Json(#[from] serde_json::Error),
    /// A field has an invalid value.
    #[error("{0} is not valid")]
    Field(&'static str),
}

impl AuditRecordJson<'_> {
    /// Parses a line of JSON lines.
    ///
    /// # Errors
    /// The line holds no audit record.
    pub fn parse_line(line: &str) -> Result<AuditRecord, AuditLineError> {
        let json: AuditRecordJson<'_> = serde_json::from_str(line)?;
        let at = DateTime::parse_from_rfc3339(&json.at).map_err(|_| AuditLineError::Field("at"))?;
        let digest = |text: &str, field| Digest::parse(text).ok_or(AuditLineError::Field(field));
        Ok(AuditRecord {
            seq: json.seq,
            content: AuditContent {
                at: at.with_timezone(&Utc),
                actor: json.actor.into_owned(),
                address: json.address.into_owned(),
                action: json.action.into_owned(),
                subject: json.subject.into_owned(),
                detail: match json.detail.as_str() {
                    Some(text) => text.to_owned(),
                    None => json.detail.to_string(),
                },
                request: json.request_id.into_owned(),
            },
            previous: digest(&json.previous, "previous")?,
            digest: digest(&json.digest, "digest")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use filepull_core::audit::ChainHead;

    use super::*;

    #[test]
    fn a_record_is_the_same_after_its_json() {
        for detail in ["{}", r#"{"b":1,"c":{"path":"Kasse 1 \u001b – täglich"}}"#, "no json", "[1]"]
        {
            let content = AuditContent {
                at: DateTime::from_timestamp_millis(1_770_000_000_120).unwrap(),
                actor: "a\"b".to_owned(),
                address: "::1".to_owned(),
                action: "x".to_owned(),
                subject: "client4".to_owned(),
                detail: detail.to_owned(),
                request: String::new(),
            };
            let record = ChainHead::empty().append(content);
            let line = serde_json::to_string(&AuditRecordJson::from(&record)).unwrap();
            assert_eq!(AuditRecordJson::parse_line(&line).unwrap(), record, "{line}");
        }
        assert!(AuditRecordJson::parse_line("{}").is_err());
    }
}
