//! Who may use the HTTP API: roles, the clients that a caller may see, and where both come from.
//!
//! It knows no HTTP status and no route. `http` asks it who the caller is, and decides with the
//! access rule of the route.

mod identity;
mod role;
mod scope;

pub(crate) use identity::{Identity, SignIn};
pub use role::Role;
pub(crate) use scope::Scope;
