//! The text page of the audit.

use crate::http::response::paging::ListPage;
use crate::http::response::text::{name, second, short, table};
use crate::records::ReadAuditRecord;

/// The text of `/audit`: one line for each record.
pub(crate) fn list(page: &ListPage<ReadAuditRecord>) -> String {
    let header = ["SEQ", "TIME", "ACTOR", "ADDRESS", "ACTION", "SUBJECT", "DETAIL"];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(page.items.iter().map(row));
    format!("{}{} records\n", table(&rows), page.total)
}

fn row(item: &ReadAuditRecord) -> [String; 7] {
    match item {
        Ok(record) => {
            let content = &record.content;
            [
                record.seq.to_string(),
                second(content.at),
                short(&content.actor),
                short(&content.address),
                short(&content.action),
                short(&content.subject),
                name(&content.detail),
            ]
        }
        Err(error) => {
            let dash = || "-".to_owned();
            let damaged = "damaged".to_owned();
            [dash(), dash(), dash(), dash(), damaged, dash(), name(&error.to_string())]
        }
    }
}
