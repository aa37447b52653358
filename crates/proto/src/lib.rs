//! The wire contract: code generated from `proto/filepull/v1`, and the only conversions between wire
//! and domain.

pub mod codec;
mod convert;

pub use convert::{answered, base_offer, drain_times, extent, millis, reported, retry_after};

/// Generated from `proto/filepull/v1`, where every message and field has a comment.
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated; the comments are in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("filepull.v1");
}
