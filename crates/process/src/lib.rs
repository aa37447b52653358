//! What every filepull process needs: run tasks and end them, read settings, handle signals, write
//! a log, hold many connections open. This crate knows nothing of transfers.

pub mod environment;
pub mod lifecycle;
#[cfg(unix)]
pub mod open_files;
pub mod signal;
pub mod telemetry;
pub mod threads;

pub use lifecycle::Lifecycle;
