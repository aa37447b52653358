//! TLS of both listeners: the server's own certificate authority or the files of the operator, the
//! handshake, and the rotation of the authority.
//!
//! Dates decide nothing for an agent that pins the authority. They matter to operators who use HTTPS, and
//! to agents that trust the roots of their system.

mod pins;

pub(crate) use pins::CaPins;
