//! Parses requests: parameters, body, headers and ids, each once.

pub(crate) mod body;
pub(crate) mod browser;
pub(crate) mod caller;
pub(crate) mod extract;
pub(crate) mod gate;
pub(crate) mod headers;
pub(crate) mod limits;
pub(crate) mod params;
pub(crate) mod pull;
pub(crate) mod rejection;
pub(crate) mod suggest;
