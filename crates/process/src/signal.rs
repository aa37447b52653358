//! The signals that ask a process to end.

use std::io;

/// Listens from this call on, and resolves at the first Ctrl-C or SIGTERM.
///
/// A second one ends the process at once, with a line in the log: whoever asks twice does not want
/// to wait.
///
/// # Errors
/// The system does not let this process listen to signals.
pub fn shutdown() -> io::Result<impl Future<Output = ()>> {
    let mut signals = Signals::listen()?;
    Ok(async move {
        signals.asked().await;
        // A thread of its own: the runtime does not wait for it, it ends with the process.
        std::thread::spawn(|| {
            let again = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(again) = again else { return };
            again.block_on(async {
                if let Ok(mut signals) = Signals::listen() {
                    let code = signals.asked().await;
                    tracing::warn!("asked to stop once more: ending at once");
                    std::process::exit(code);
                }
            });
        });
    })
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    /// The exit code of a process that this ends: 128 and the number of the signal.
    async fn asked(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
        }
    }
}

#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn listen() -> io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    async fn asked(&mut self) -> i32 {
        let _ = self.0.recv().await;
        130
    }
}
