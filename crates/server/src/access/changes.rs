//! Records in the audit how the tokens change: in the running server, and between two starts.

use std::collections::BTreeMap;

use filepull_core::audit::AuditAction;
use filepull_core::digest::Digest;

use super::token_table::TokenTable;
use crate::records::{Actor, AuditEntry, Records, RecordsError};

/// The subject of the audit record.
const SUBJECT: &str = "tokens";

/// The member of the detail that identifies all tokens, for the comparison at the next start.
const STATE: &str = "state";

/// Returns the entry for a change of the tokens; none if only comments have changed.
pub(crate) fn entry(before: &TokenTable, after: &TokenTable) -> Option<AuditEntry> {
    let [before, after] = [before, after].map(TokenTable::summaries);
    if before == after {
        return None;
    }
    let only_in = |a: &BTreeMap<String, String>, b: &BTreeMap<String, String>| -> Vec<String> {
        a.keys().filter(|name| !b.contains_key(*name)).cloned().collect()
    };
    let is_changed = |name: &&String| before.get(*name).is_some_and(|old| after[*name] != *old);
    let changed: Vec<String> = after.keys().filter(is_changed).cloned().collect();
    let entry = Actor::server()
        .did(AuditAction::TokensChanged, SUBJECT)
        .with("added", only_in(&after, &before))
        .with("removed", only_in(&before, &after))
        .with("changed", changed)
        .with(STATE, state(&after));
    Some(entry)
}

/// Records the tokens at the start, if they differ from the last ones on record.
///
/// # Errors
/// The records cannot be read or written. Then the server must not start.
pub(crate) async fn record_at_start(
    records: &Records,
    table: &TokenTable,
) -> Result<(), RecordsError> {
    let current = table.summaries();
    let state = state(&current);
    let last = records.last_audited(AuditAction::TokensChanged, SUBJECT, STATE).await?;
    if last.is_some_and(|last| last == state) {
        return Ok(());
    }
    let names: Vec<String> = current.into_keys().collect();
    let entry = Actor::server().did(AuditAction::TokensChanged, SUBJECT);
    records.audit(entry.with("names", names).with(STATE, state)).await
}

fn state(summaries: &BTreeMap<String, String>) -> String {
    Digest::of(format!("{summaries:?}").as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::records::AuditFilter;

    fn table(text: &str) -> TokenTable {
        TokenTable::parse(text).unwrap()
    }

    #[test]
    fn the_entry_names_what_was_added_removed_and_changed() {
        let before = table("user a viewer\nuser b viewer\nuser c admin\n");
        let after = table("# new\nuser b operator\nuser c admin\nuser d viewer\n");
        let entry = entry(&before, &after).unwrap();
        assert_eq!(entry.detail["added"], Value::from(vec!["d"]));
        assert_eq!(entry.detail["removed"], Value::from(vec!["a"]));
        assert_eq!(entry.detail["changed"], Value::from(vec!["b"]));
        assert!(
            super::entry(&before, &table("# x\nuser b viewer\nuser a viewer\nuser c admin"))
                .is_none()
        );
    }

    #[tokio::test]
    async fn tokens_that_changed_between_two_starts_are_recorded_once() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).await.unwrap();
        let all = AuditFilter { limit: 10, ..AuditFilter::default() };
        let n_records = async || records.audit_page(&all).await.unwrap().items.len();
        for (text, expected) in
            [("user a admin", 1), ("# x\nuser a admin", 1), ("user a viewer", 2)]
        {
            let table = table(text);
            record_at_start(&records, &table).await.unwrap();
            record_at_start(&records, &table).await.unwrap();
            assert_eq!(n_records().await, expected, "{text}");
        }
    }
}
