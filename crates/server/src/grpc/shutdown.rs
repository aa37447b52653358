//! How the listener for agents shuts down.

use tokio_util::sync::CancellationToken;

/// The three steps of the shutdown, in this order. Each step is a token that the server cancels.
#[derive(Clone, Debug, Default)]
pub(crate) struct GrpcShutdown {
    /// Accept no more connections.
    pub(crate) stop_accepting: CancellationToken,
    /// Let each connection end once its streams have ended.
    pub(crate) finish: CancellationToken,
    /// End the remaining connections.
    pub(crate) abort: CancellationToken,
}
