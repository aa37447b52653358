//! System calls of a running process that fail or hang, injected by `strace`.

use crate::process::{self, Process};

/// Injects faults into a process until it is dropped.
#[derive(Debug)]
pub struct Strace {
    tracer: Process,
}

impl Strace {
    /// Attaches to a process with arguments such as `-e inject=fsync:error=EIO`. Returns `None` if
    /// `strace` is not installed or may not trace.
    pub async fn attach(pid: u32, args: &[&str]) -> anyhow::Result<Option<Self>> {
        let mut command = process::command("strace");
        command.args(["-f", "-o", "/dev/null", "-p", &pid.to_string()]).args(args);
        let Ok(mut tracer) = Process::spawn(command) else { return Ok(None) };
        match tracer.ready("attached").await {
            Ok(_) => Ok(Some(Self { tracer })),
            Err(error) if tracer.is_running() => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Ends the faults: later system calls run normally.
    pub async fn detach(self) -> anyhow::Result<()> {
        self.tracer.kill().await
    }
}
