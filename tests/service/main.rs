//! The built daemon from outside: real sockets, real processes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod control;
mod hostile;
mod http;
mod inputs;
mod lifecycle;
mod nginx;
mod stall;
mod tokens;
