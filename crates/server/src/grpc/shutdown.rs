//! How the listener for agents shuts down.

use tokio_util::sync::CancellationToken;

/// The three steps of the shutdown, in this order. Each step is a token that the server cancels.
#[derive(Clone, Debug, Default)]
pub(crate) struct GrpcShutdown {
    /// The listener accepts no more connections.
    pub(crate) stop_accepting: CancellationToken,
    /// Each connection ends once its streams have ended.
    pub(crate) finish: CancellationToken,
    /// The remaining connections end at once.
    pub(crate) abort: CancellationToken,
}
