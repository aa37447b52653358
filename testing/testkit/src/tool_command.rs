//! The command line of the tools, and the start of each.

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use tokio::runtime;

use crate::fleet::agents;
use crate::net::{delay, sender};
use crate::tool::{NAME, log_error};

/// Threads for blocking work. Without a limit, a fleet that reads files starts one for each agent.
const MAX_BLOCKING: usize = 64;

#[derive(Clone, Debug, Parser)]
enum Tool {
    /// Delays and loses the packets of a router.
    Delay(delay::Args),
    /// Sends zeros over a plain TCP connection.
    Sender(sender::Args),
    /// Runs many agents in one process.
    Agents(agents::Args),
}

/// Runs the tool that the command line names, to its end. Returns `None` if it names no tool.
pub fn run_tool() -> Option<ExitCode> {
    let args: Vec<OsString> = env::args_os().skip(1).collect();
    if args.first()? != NAME {
        return None;
    }
    let result = start(Tool::parse_from(args));
    Some(result.map_or_else(
        |error| {
            log_error(format!("{error:#}"));
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    ))
}

fn start(tool: Tool) -> anyhow::Result<()> {
    let mut builder = runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().max_blocking_threads(MAX_BLOCKING).build()?;
    runtime.block_on(async {
        match tool {
            Tool::Delay(args) => delay::run(&args),
            Tool::Sender(args) => sender::run(&args).await,
            Tool::Agents(args) => agents::run(&args).await,
        }
    })
}
