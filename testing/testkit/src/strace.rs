//! Faults at single system calls of a running program, where the machine has `strace` and lets us
//! use it.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::soon;

/// A program whose system calls fail or hang, until this is dropped.
#[derive(Debug)]
pub struct Strace {
    tracer: Child,
    /// It talks of each new thread, and would die of a pipe that is closed.
    _said: Lines<BufReader<ChildStderr>>,
}

impl Strace {
    /// Attaches to a process, with more arguments such as `-e inject=fsync:error=EIO`. `None` where
    /// there is no `strace`, or where one process may not look into another.
    ///
    /// # Errors
    /// It neither attaches nor ends.
    pub async fn attach(pid: u32, args: &[&str]) -> anyhow::Result<Option<Self>> {
        let mut command = Command::new("strace");
        command.args(["-f", "-o", "/dev/null", "-p", &pid.to_string()]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let Ok(mut tracer) = command.kill_on_drop(true).spawn() else { return Ok(None) };
        let Some(said) = tracer.stderr.take() else { return Ok(None) };
        let mut said = BufReader::new(said).lines();
        let attached = async {
            while let Some(line) = said.next_line().await? {
                if line.contains("attached") {
                    return anyhow::Ok(true);
                }
            }
            Ok(false)
        };
        let attached = soon("strace", attached).await??;
        Ok(attached.then_some(Self { tracer, _said: said }))
    }

    /// Lets the program go: from now on its system calls do what they say.
    ///
    /// # Errors
    /// It has ended already.
    pub async fn detach(mut self) -> anyhow::Result<()> {
        self.tracer.kill().await?;
        Ok(())
    }
}
