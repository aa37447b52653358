//! What the bench measures and chaos tries the product in: processes that are killed whatever
//! happens, network namespaces with a router that delays, loses and slows down, and fleets of agents
//! in one process.
//!
//! Parts of it are processes of their own: the router's delay, a plain sender, a fleet. They are the
//! program that starts them, told so by its first word; hence a program that uses the lab asks
//! [`tool::run`] before anything else.

pub mod fleet;
pub mod net;
pub mod proc_files;
pub mod process;
pub mod tool;
