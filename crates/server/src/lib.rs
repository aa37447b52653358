//! stub

pub mod client;
pub mod records;
