//! The wire contract: what `proto/filepull/v1` generates, and the only conversions between it and
//! the domain.

pub mod codec;
mod convert;

pub use convert::{answered, drain_times, millis, reported, retry_after};

/// Generated from `proto/filepull/v1`; every message and field is described there.
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated; the comments are in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("filepull.v1");
}
