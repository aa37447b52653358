//! The types and rules of filepull: this crate decides, and the server and the agent act.
//!
//! It uses no socket, disk or clock, so nothing in it can block.

pub mod audit;
pub mod fingerprint;
pub mod id;
pub mod invite;
pub mod keyword;
pub mod path;
pub mod problem;

pub mod base_offer;
pub mod compression;
pub mod delta;
pub mod digest;
pub mod disk;
mod download;
pub mod extent;
pub mod file_digest;
pub mod name;
pub mod pull_mode;
pub mod receive;
pub mod source;
pub mod transfer;

pub mod backoff;
pub mod bounds;
pub mod cpu_budget;
pub mod human;
pub mod pace;

/// Maximum length of a chunk: 64 KiB.
pub const CHUNK_LEN: usize = 64 * 1024;

/// The versions of the wire protocol that this build supports, oldest and newest.
pub const PROTOCOL: std::ops::RangeInclusive<u32> = 2..=2;
