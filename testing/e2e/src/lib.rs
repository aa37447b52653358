//! A bed for tests of the whole: the real programs as processes, on port 0 and in a temp folder.
//!
//! Nothing here waits for a clock. What a test waits for is an answer, a log line, or a byte that
//! passes the [`Proxy`]; one generous deadline turns a wait that never ends into a failure.

mod bed;
mod client;
mod http;
mod process;
mod proxy;
mod scripted_agent;
mod strace;

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;

pub use bed::{Programs, TestServer, same_bytes, test_data};
pub use client::TestClient;
pub use http::{HttpResponse, send};
pub use process::{Process, program};
pub use proxy::{Direction, Proxy};
pub use scripted_agent::{ScriptedAgent, ScriptedUpload};
pub use strace::Strace;

/// No wait in a test is longer: on a busy machine with two cores everything takes its time.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Waits for something that must happen.
///
/// # Errors
/// It did not happen within [`DEADLINE`].
pub async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(DEADLINE, happens)
        .await
        .with_context(|| format!("waited in vain for {what}"))
}
