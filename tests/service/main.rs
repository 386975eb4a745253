//! The built daemon from outside: real sockets, real processes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../cluster/server.rs"]
#[allow(dead_code, reason = "the tests of the room use all of it")]
mod server;

// Where the server's tests find it.
use support::until;

mod checkpoint_key;
mod control;
mod delegation;
mod erasing;
mod hostile;
mod http;
mod inputs;
mod lifecycle;
mod nginx;
mod nodes;
mod privacy;
mod receipts;
mod retention;
mod revocation;
mod rotation;
mod signing_keys;
mod stall;
mod tokens;
