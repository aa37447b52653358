//! The tools that the lab runs as processes of their own: this very program, started anew.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::process::{ExitCode, Stdio};

use anyhow::Context as _;
use clap::Parser;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::runtime;
use tokio::time::timeout;

use crate::fleet::agents;
use crate::net::{delay, plain};
use crate::process::{ChildProcess, START_LIMIT};

/// The first word that makes a program a tool of the lab.
pub const NAME: &str = "lab";

/// For agents that read files. A fleet that looks at its files all at once makes no more threads.
const MAX_BLOCKING: usize = 64;

/// What a program that uses the lab can be besides itself.
#[derive(Clone, Debug, Parser)]
enum Tool {
    /// What the router does with packets.
    Delay(delay::Args),
    /// The sender of a plain TCP connection.
    Pour(plain::Args),
    /// Many agents in one process.
    Agents(agents::Args),
}

/// Is the tool that this program was started as, to its end; nothing if it is none.
pub fn run() -> Option<ExitCode> {
    let words: Vec<OsString> = env::args_os().skip(1).collect();
    if words.first()? != NAME {
        return None;
    }
    let ended = start(Tool::parse_from(words));
    Some(ended.map_or_else(
        |error| {
            complain(format!("{error:#}"));
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    ))
}

fn start(tool: Tool) -> anyhow::Result<()> {
    let mut runtime = runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(MAX_BLOCKING).build()?;
    runtime.block_on(async {
        match tool {
            Tool::Delay(args) => delay::run(&args),
            Tool::Pour(args) => plain::run(&args).await,
            Tool::Agents(args) => agents::run(&args).await,
        }
    })
}

/// A tool that has said that it is ready.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) process: ChildProcess,
    /// Its end, even if this program is killed, ends the tool.
    word: ChildStdin,
    /// Output that nobody reads must not end the tool by a broken pipe.
    _output: BufReader<ChildStdout>,
}

impl Started {
    /// Starts a tool and waits for the line `ready`.
    pub(crate) async fn start(
        name: &'static str,
        mut command: Command,
        ready: &str,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let (mut process, output) = ChildProcess::start(
            name,
            {
                command.stdin(Stdio::piped());
                command
            },
            folder,
        )?;
        let mut output = BufReader::new(output);
        let mut said = String::new();
        let read = timeout(START_LIMIT, output.read_line(&mut said)).await;
        anyhow::ensure!(read.is_ok_and(|read| read.is_ok()), process.last_words());
        anyhow::ensure!(said.trim() == ready, process.last_words());
        Ok(Self { word: process.stdin()?, process, _output: output })
    }

    /// Gives it a line to read.
    pub(crate) async fn tell(&mut self) -> anyhow::Result<()> {
        self.word.write_all(b"\n").await.with_context(|| self.process.last_words())
    }
}

/// Says something to whoever has started the tool.
#[allow(clippy::print_stdout, reason = "a tool speaks by its standard output")]
pub(crate) fn say(text: impl fmt::Display) {
    println!("{text}");
}

/// Says what is wrong; the log of the process has it.
#[allow(clippy::print_stderr, reason = "the standard error of a tool is its log")]
pub(crate) fn complain(text: impl fmt::Display) {
    eprintln!("{text}");
}
