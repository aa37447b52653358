//! One record of the log, as a line of JSON.

use chrono::{DateTime, Utc};
use filepull_core::human;
use serde::{Deserialize, Serialize};

use super::OrderText;

/// Maximum length of a path or a reason in a record, in characters.
const MAX_TEXT: usize = 1000;

/// What happened to an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TransferEvent {
    /// The agent opened the file, and begins to send it.
    Started,
    /// The server confirmed that it has the whole file.
    Sent,
    /// The server has the whole file already: nothing was sent.
    Unchanged,
    /// The transfer ended before the file was sent.
    Failed,
    /// The server cancelled the transfer, or the agent was stopped.
    Stopped,
    /// The agent did not send the file.
    Refused,
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TransferRecord {
    pub(crate) time: DateTime<Utc>,
    pub(crate) event: TransferEvent,
    pub(crate) client: String,
    /// The address of the server, as configured.
    pub(crate) server: String,
    pub(crate) transfer: String,
    pub(crate) attempt: u32,
    pub(crate) path: String,
    /// The length of the file, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
    /// The bytes that left this machine: of the file, or compressed. Parts that the server has already
    /// and holes have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sent_bytes: Option<u64>,
    /// The operator, as the server names it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) requested_by: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
}

impl TransferRecord {
    pub(crate) fn new(
        client: &str,
        server: &str,
        order: OrderText<'_>,
        event: TransferEvent,
    ) -> Self {
        Self {
            time: Utc::now(),
            event,
            client: client.to_owned(),
            server: server.to_owned(),
            transfer: human::printable(order.transfer, 64),
            attempt: order.attempt,
            path: human::printable(order.path, MAX_TEXT),
            size: None,
            sent_bytes: None,
            requested_by: human::printable(order.requested_by, 80),
            reason: String::new(),
        }
    }

    /// Returns the record of the end of this transfer.
    pub(crate) fn ended(self, event: TransferEvent, sent_bytes: u64) -> Self {
        Self { time: Utc::now(), event, sent_bytes: Some(sent_bytes), ..self }
    }

    pub(crate) fn because(self, reason: &str) -> Self {
        Self { reason: human::printable(reason, MAX_TEXT), ..self }
    }

    /// Returns whether `end` is the end of the transfer that this record starts.
    pub(crate) fn is_start_of(&self, end: &Self) -> bool {
        self.event == TransferEvent::Started
            && self.client == end.client
            && self.transfer == end.transfer
            && self.attempt == end.attempt
    }
}
