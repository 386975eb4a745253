//! Witnesses (C2SP tlog-witness): who keeps what a log has signed where its owner cannot change it.
//!
//! - `judge.rs`: what a witness does with a request, as pure functions.
//! - [`Witness`], `kept.rs`: the same with what it remembers. Remembered durably first, cosigned afterwards.
//! - `server.rs`: the HTTP around it, on tokio and axum.
//! - [`Submitter`], [`Courier`]: the other side, which takes our own log's checkpoints to a witness.
//! - `list.rs`: which logs it knows (C2SP tlog-list).
//!
//! Imports `crate::audit` for notes and proofs, and nothing else of ours.

mod client;
mod cosigner;
mod courier;
pub mod judge;
mod kept;
mod list;
mod server;

pub use client::{Anchored, Submitted, Submitter, Witness};
pub use cosigner::{Answer, Cosigner, CosignerError};
pub use courier::{Courier, OnAnchored, Standing, StandingReader};
pub use list::{KnownLog, ListError, parse_list};
pub use server::{ServeError, serve};

#[cfg(test)]
mod tests;
