//! The built daemon from outside: real sockets, real processes.

#[path = "../support/mod.rs"]
mod support;

mod control;
mod hostile;
mod http;
mod lifecycle;
mod nginx;
mod tokens;
