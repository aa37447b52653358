//! What every process of filepull does, whatever it is for: run tasks and end them, read settings,
//! listen to signals, write a log, hold many connections open. It knows nothing of transfers.

pub mod environment;
pub mod lifecycle;
#[cfg(unix)]
pub mod open_files;
pub mod signal;
pub mod telemetry;
pub mod threads;

pub use lifecycle::Lifecycle;
