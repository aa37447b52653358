//! The words and the rules of filepull.
//!
//! Nothing in here touches a socket, a disk or a clock, so nothing in here can block: what may
//! happen next is decided here, and carried out by the server and the agent.

pub mod id;
pub mod keyword;
pub mod path;
pub mod problem;

pub mod digest;
pub mod disk;
mod download;
pub mod name;
pub mod receive;
pub mod source;
pub mod transfer;

pub mod backoff;
pub mod bounds;
pub mod human;
pub mod pace;

/// Bytes of the file that one chunk carries at most: 64 KiB.
pub const CHUNK_LEN: usize = 64 * 1024;

/// The wire protocols this build speaks, oldest and newest.
pub const PROTOCOL: std::ops::RangeInclusive<u32> = 1..=1;
