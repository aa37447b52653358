//! What every filepull process needs: tasks and their shutdown, settings, signals, the log, and
//! enough open files and threads. This crate does not know transfers.

pub mod environment;
pub mod lifecycle;
#[cfg(unix)]
pub mod open_files;
pub mod signal;
pub mod telemetry;
pub mod threads;

pub use lifecycle::Lifecycle;
