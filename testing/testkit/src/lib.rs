//! The tools of every test of the product: servers, agents, clients, networks and fleets.
//!
//! A test waits for a response, a line of output, or a byte that passes the [`Proxy`]; no wait is
//! longer than [`DEADLINE`].
//!
//! Parts of the kit run as processes of their own: the delay of a router, a plain sender, a fleet.
//! Each is the program that starts it, with the name of the tool as its first argument. So a program
//! that uses them calls [`run_tool`] before anything else.

mod agent;
mod agent_certificate;
pub mod fleet;
mod http;
pub mod net;
pub mod proc_files;
pub mod process;
mod program;
mod proxy;
mod scripted_agent;
mod secure;
mod server;
mod strace;
mod tool;
mod tool_command;
mod trusted;

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{sleep, timeout};

pub use agent::TestClient;
pub use agent_certificate::{AgentCertificate, config_with};
pub use http::{HttpClient, HttpResponse};
pub use process::Process;
pub use program::Programs;
pub use proxy::{Direction, Proxy};
pub use scripted_agent::{ScriptedAgent, ScriptedUpload};
pub use secure::{ADMIN, SECURE};
pub use server::{TestServer, same_bytes, settings_in, test_data};
pub use strace::Strace;
pub use tool_command::run_tool;
pub use trusted::{channel_with, enrol, trusted_channel};

/// Maximum time of every wait: a busy machine with two cores is slow.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Time between two checks of a state that cannot be awaited.
pub const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Waits for `event` until [`DEADLINE`].
pub async fn soon<T>(what: &str, event: impl Future<Output = T>) -> anyhow::Result<T> {
    timeout(DEADLINE, event).await.with_context(|| format!("timed out waiting for {what}"))
}

/// Calls `probe` every [`POLL_INTERVAL`] until it returns a value, or until [`DEADLINE`].
pub async fn poll<T>(
    what: &str,
    mut probe: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let polling = async {
        loop {
            if let Some(found) = probe().await? {
                return Ok(found);
            }
            sleep(POLL_INTERVAL).await;
        }
    };
    soon(what, polling).await?
}
