//! Who may use the HTTP API: roles, the clients that a caller may see, and where both come from.
//!
//! It knows no HTTP status and no route. `http` asks it who the caller is, and decides with the
//! access rule of the route.

mod changes;
mod identity;
mod keeper;
mod role;
pub(crate) mod startup;
mod token;
pub mod token_editor;
mod token_table;
pub(crate) mod tokens_file;

pub(crate) use identity::{CallerIdentity, SignIn};
pub(crate) use keeper::{SignInError, Tokens, TokensKeeper};
pub use role::Role;
#[cfg(test)]
pub(crate) use token::Token;
pub use token_table::parse_label;
pub use tokens_file::TokensFileError;
