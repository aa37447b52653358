//! Tools that run as processes of their own. Each is the program that uses the kit, started with
//! [`NAME`] as its first argument.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::process::{ExitCode, Stdio};

use anyhow::Context as _;
use clap::Parser;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{ChildStdin, Command};
use tokio::runtime;

use crate::fleet::agents;
use crate::net::{delay, sender};
use crate::process::Process;

/// The first argument that makes a program a tool.
pub const NAME: &str = "testkit";

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
pub fn run() -> Option<ExitCode> {
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

/// A tool that runs until this is dropped, or until this process ends.
#[derive(Debug)]
pub(crate) struct ToolProcess {
    pub(crate) process: Process,
    /// The end of its standard input ends the tool, also after a kill of this process.
    stdin: ChildStdin,
}

impl ToolProcess {
    /// Starts a tool and waits until it prints `ready`.
    pub(crate) async fn start(mut command: Command, ready: &str) -> anyhow::Result<Self> {
        command.stdin(Stdio::piped());
        let mut process = Process::spawn(command)?;
        // Taken first: a wait for the process closes its standard input.
        let stdin = process.stdin()?;
        process.ready(ready).await?;
        Ok(Self { process, stdin })
    }

    /// Sends the tool an empty line.
    pub(crate) async fn send_line(&mut self) -> anyhow::Result<()> {
        self.stdin.write_all(b"\n").await.with_context(|| self.process.last_output())
    }
}

/// Prints a line for the program that started the tool.
#[allow(clippy::print_stdout, reason = "the standard output of a tool is its interface")]
pub(crate) fn print(text: impl fmt::Display) {
    println!("{text}");
}

/// Prints an error to the log of the tool.
#[allow(clippy::print_stderr, reason = "the standard error of a tool is its log")]
pub(crate) fn log_error(text: impl fmt::Display) {
    eprintln!("{text}");
}
