//! Records which settings differ from the settings of the previous start.

use filepull_core::audit::AuditAction;
use serde_json::{Map, Value};

use crate::config::Setting;
use crate::records::{Actor, Records, RecordsError};

/// The subject of the audit record.
const SUBJECT: &str = "settings";

/// The member of the detail that holds all settings, for the comparison at the next start.
const SETTINGS: &str = "settings";

/// Compares the settings with the last ones on record. Records them if they differ.
///
/// # Errors
/// The records cannot be read or written. Then the server must not start.
pub(crate) async fn record(
    records: &Records,
    settings: &[(&'static str, Setting)],
) -> Result<(), RecordsError> {
    let value = |setting: &Setting| Value::from(setting.as_text());
    let current: Map<String, Value> =
        settings.iter().map(|(name, setting)| ((*name).to_owned(), value(setting))).collect();
    let last = records.last_audited(AuditAction::SettingsChanged, SUBJECT, SETTINGS).await?;
    let Some(Value::Object(before)) = last else {
        let entry = Actor::server().did(AuditAction::SettingsChanged, SUBJECT);
        return records.audit(entry.with(SETTINGS, current)).await;
    };
    let names = current.keys().chain(before.keys().filter(|name| !current.contains_key(*name)));
    let changed: Map<String, Value> = names
        .filter(|name| current.get(*name) != before.get(*name))
        .map(|name| {
            let values = serde_json::json!({ "from": before.get(name), "to": current.get(name) });
            (name.clone(), values)
        })
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    let entry = Actor::server().did(AuditAction::SettingsChanged, SUBJECT);
    records.audit(entry.with("changed", changed).with(SETTINGS, current)).await
}
