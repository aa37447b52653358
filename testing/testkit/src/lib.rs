//! The tools of every test of the product: servers, agents, clients, networks and fleets.
//!
//! No wait is longer than [`DEADLINE`]. A test waits for an answer, a log line, or a byte that
//! passes the [`Proxy`].
//!
//! Parts of the kit are processes of their own: the delay of a router, a plain sender, a fleet.
//! Each is the program that starts them, with the name of the tool as its first argument. So a
//! program that uses them calls [`tool::run`] before anything else.

mod agent;
pub mod fleet;
mod http;
pub mod net;
pub mod proc_files;
pub mod process;
mod program;
mod proxy;
mod scripted_agent;
mod server;
mod strace;
pub mod tool;

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;

pub use agent::TestClient;
pub use http::{HttpResponse, send};
pub use program::{Process, program};
pub use proxy::{Direction, Proxy};
pub use scripted_agent::{ScriptedAgent, ScriptedUpload};
pub use server::{Programs, TestServer, same_bytes, test_data};
pub use strace::Strace;

/// No wait in a test is longer: a busy machine with two cores is slow.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Waits for something that must happen.
///
/// # Errors
/// It did not happen within [`DEADLINE`].
pub async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(DEADLINE, happens)
        .await
        .with_context(|| format!("timed out waiting for {what}"))
}
