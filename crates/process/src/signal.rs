//! The signals that ask a process to end.

/// Resolves at the first Ctrl-C or SIGTERM.
///
/// A second one ends the process at once: whoever asks twice does not want to wait.
pub async fn shutdown() {
    asked().await;
    // A thread of its own: the runtime does not wait for it, it ends with the process.
    std::thread::spawn(|| {
        let again = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(again) = again {
            again.block_on(asked());
            std::process::exit(130);
        }
    });
}

#[cfg(unix)]
async fn asked() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        // Without a handler SIGTERM ends the process the hard way; Ctrl-C is still heard.
        return ctrl_c().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        () = ctrl_c() => {}
    }
}

#[cfg(not(unix))]
async fn asked() {
    ctrl_c().await;
}

async fn ctrl_c() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
