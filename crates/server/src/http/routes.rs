//! The handlers of requests, one module for each resource or page.

pub(crate) mod audit;
pub(crate) mod ca;
pub(crate) mod clients;
pub(crate) mod files;
pub(crate) mod health;
pub(crate) mod home;
pub(crate) mod invites;
mod limits;
pub(crate) mod problems;
pub(crate) mod receipt;
pub(crate) mod server_info;
pub(crate) mod transfers;
pub(crate) mod trigger;
mod wait;
pub(crate) mod whoami;
