//! Lists the records of the audit, page by page.

use chrono::{DateTime, Utc};
use filepull_core::audit::{AuditAction, AuditRecord};
use serde_json::Value;

use super::Records;
use super::audit::read;
use super::error::RecordsError;
use super::list::Total;
use super::statement::Statement;

/// The order of a list of audit records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuditOrder {
    NewestFirst,
    OldestFirst,
}

/// Selects audit records. A field that is not set matches every record.
#[derive(Clone, Debug)]
pub(crate) struct AuditFilter {
    pub(crate) since: Option<DateTime<Utc>>,
    /// Records before this time.
    pub(crate) until: Option<DateTime<Utc>>,
    pub(crate) actor: Option<String>,
    pub(crate) action: Option<String>,
    pub(crate) subject: Option<String>,
    pub(crate) order: AuditOrder,
    /// The record before the first one of the page.
    pub(crate) after: Option<u64>,
    pub(crate) limit: u32,
}

impl Default for AuditFilter {
    fn default() -> Self {
        Self {
            since: None,
            until: None,
            actor: None,
            action: None,
            subject: None,
            order: AuditOrder::NewestFirst,
            after: None,
            limit: 1,
        }
    }
}

/// A record of the audit, or why it cannot be read.
pub(crate) type ReadAuditRecord = Result<AuditRecord, RecordsError>;

/// A page of audit records.
#[derive(Debug)]
pub(crate) struct AuditPage {
    pub(crate) items: Vec<ReadAuditRecord>,
    /// The `after` of the next page, if there is one.
    pub(crate) next: Option<u64>,
}

impl Records {
    /// Returns a member of the detail of the newest audit record with this action and subject; none if
    /// there is no such record, or it cannot be read.
    pub(crate) async fn last_audited(
        &self,
        action: AuditAction,
        subject: &str,
        member: &str,
    ) -> Result<Option<Value>, RecordsError> {
        let newest = AuditFilter {
            action: Some(action.as_str().to_owned()),
            subject: Some(subject.to_owned()),
            limit: 1,
            ..AuditFilter::default()
        };
        let page = self.audit_page(&newest).await?;
        let Some(Ok(record)) = page.items.into_iter().next() else { return Ok(None) };
        let detail: Option<Value> = serde_json::from_str(&record.content.detail).ok();
        Ok(detail.and_then(|detail| detail.get(member).cloned()))
    }

    /// Returns a page of the audit records that match.
    pub(crate) async fn audit_page(&self, filter: &AuditFilter) -> Result<AuditPage, RecordsError> {
        // One row more than requested shows whether there is a next page.
        let rows = self.readers.list(page(filter, filter.limit + 1)).await?;
        let shown = &rows[..rows.len().min(filter.limit as usize)];
        let last = shown.last().filter(|_| shown.len() < rows.len());
        let next = last.and_then(|row| row.integer("seq")).map(i64::cast_unsigned);
        Ok(AuditPage { items: shown.iter().map(read).collect(), next })
    }

    /// Counts the audit records that match, on all pages.
    pub(crate) async fn count_audit(&self, filter: &AuditFilter) -> Result<Total, RecordsError> {
        self.count(matching("SELECT COUNT(*) AS n FROM (SELECT 1", filter)).await
    }
}

fn page(filter: &AuditFilter, limit: u32) -> Statement {
    let mut query = matching("SELECT *", filter);
    let after = filter.after.map(u64::cast_signed);
    let (compare, order) = match filter.order {
        AuditOrder::NewestFirst => (" AND seq < ", " ORDER BY seq DESC LIMIT "),
        AuditOrder::OldestFirst => (" AND seq > ", " ORDER BY seq LIMIT "),
    };
    if let Some(after) = after {
        query.push(compare).push_bind(after);
    }
    query.push(order).push_bind(limit);
    query
}

fn matching(select: &'static str, filter: &AuditFilter) -> Statement {
    let mut query = Statement::new(select);
    query.push(" FROM audit WHERE 1 = 1");
    if let Some(since) = filter.since {
        query.push(" AND at >= ").push_bind(since.timestamp_millis());
    }
    if let Some(until) = filter.until {
        query.push(" AND at < ").push_bind(until.timestamp_millis());
    }
    let texts =
        [("actor", &filter.actor), ("action", &filter.action), ("subject", &filter.subject)];
    for (column, wanted) in texts {
        if let Some(wanted) = wanted {
            query.push(" AND ").push(column).push(" = ").push_bind(wanted.as_str());
        }
    }
    query
}
