//! Nodes that share what is revoked through a real redis-server: what each fault looks like from outside, that no revoked
//! token passes inside the promise, that nothing answered is lost, and that it heals by itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod faults;
mod followed;
mod loss;
mod node;
mod once;
mod reached;
mod sentinel;
mod server;
#[path = "../support/mod.rs"]
mod support;
