//! The process of a tool, and how it prints. A tool is the program that uses the kit, started with
//! [`NAME`] as its first argument.

use std::fmt;
use std::process::Stdio;

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{ChildStdin, Command};

use crate::process::Process;

/// The first argument that makes a program a tool.
pub(crate) const NAME: &str = "testkit";

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
