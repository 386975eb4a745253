//! The audit mirror against receivers that are slow, restarted, half gone or not who they should be: what the log holds
//! arrives, the copy proves itself, and the log waits for none of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod receiver;
mod redis_stream;
#[path = "../cluster/server.rs"]
#[allow(dead_code, reason = "the tests of the cluster use all of it")]
mod server;
mod source;
#[path = "../support/mod.rs"]
mod support;
mod syslog;

/// Waits until something is so that must become so. Looks a hundred times a second: the servers need the processor too.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    support::until(what, || {
        done() || {
            std::thread::sleep(std::time::Duration::from_millis(10));
            false
        }
    });
}
