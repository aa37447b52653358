//! What every process of filepull does, whatever it is for: run tasks and end them, listen to
//! signals, write a log. It knows nothing of transfers.

pub mod lifecycle;
pub mod signal;
pub mod telemetry;

pub use lifecycle::Lifecycle;
