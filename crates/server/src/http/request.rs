//! What a request says: parameters, body, headers and ids, parsed once.

pub(crate) mod body;
pub(crate) mod caller;
pub(crate) mod extract;
pub(crate) mod headers;
pub(crate) mod params;
pub(crate) mod pull;
pub(crate) mod rejection;
pub(crate) mod suggest;
