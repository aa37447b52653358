//! A caller who is signed in.

use std::sync::Arc;

use super::Role;
use crate::scope::Scope;

/// How a caller is signed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignIn {
    /// The server does not ask who calls (`HTTP_AUTH=none`).
    Off,
    /// With a token of `TOKENS_FILE`.
    Token,
    /// A trusted proxy names the user.
    Proxy,
}

impl SignIn {
    /// Returns the keyword for the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Off => "none",
            Self::Token => "token",
            Self::Proxy => "proxy",
        }
    }
}

/// A caller who may use the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallerIdentity {
    /// The name of the token or of the user; none if the server does not ask.
    pub(crate) name: Option<Arc<str>>,
    pub(crate) role: Role,
    pub(crate) scope: Scope,
    pub(crate) sign_in: SignIn,
}

impl CallerIdentity {
    /// Returns the identity of every caller of a server that does not ask who calls.
    pub(crate) fn anonymous() -> Self {
        Self { name: None, role: Role::Admin, scope: Scope::Everything, sign_in: SignIn::Off }
    }
}
