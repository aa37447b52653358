//! What a fuzzer runs: one function for each kind of hostile input (promise S12).
//!
//! Each function takes any bytes and must not panic; a panic of any thread is a bug. The programs in
//! `fuzz/` run the functions under libFuzzer, and `tests/corpus.rs` runs them over the committed
//! corpus, with the stable compiler and as part of the ordinary tests.

#![allow(clippy::unwrap_used, reason = "a fuzzer stops at a panic")]

mod agent;
mod http;
mod invite;
mod messages;
mod records;

use std::sync::OnceLock;

use tokio::runtime::Runtime;

pub use crate::agent::agent;
pub use crate::http::http;
pub use crate::invite::invite;
pub use crate::messages::messages;
pub use crate::records::records;

/// A function that must not panic, for any bytes.
pub type Target = fn(&[u8]);

/// The name of each target, and its function.
pub const TARGETS: [(&str, Target); 5] = [
    ("agent", agent),
    ("http", http),
    ("invite", invite),
    ("messages", messages),
    ("records", records),
];

/// The runtime of all targets. It has two threads, so that a server runs beside its client.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().unwrap()
    })
}

/// Splits an input into messages: each begins with its length in two bytes, the low byte first. The
/// final one may be shorter.
fn split(mut data: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while let [low, high, rest @ ..] = data {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (message, others) = rest.split_at(len);
        messages.push(message);
        data = others;
    }
    messages
}

/// Joins messages into an input for a target that splits it.
pub fn join(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut data = Vec::new();
    for message in messages {
        let len = u16::try_from(message.len()).unwrap_or(u16::MAX);
        data.extend(len.to_le_bytes());
        data.extend(&message[..usize::from(len)]);
    }
    data
}
