//! Edgate answers one question for every request that reaches a platform: may this token pass?
//!
//! The rooms, in the order a token meets them. Each is a folder whose `mod.rs` says what it does and what it may
//! touch; `tests/tidy.rs` holds who may import whom.

pub mod aep; // the Agent Event Protocol's canonical JSON and audit bundles; pure
pub mod audit; // the hash chain: sequencer, segments, recovery
pub mod base64url; // one text per sequence of bytes; for token and keys
pub mod cli;
pub mod cluster; // Redis as the truth that nodes share: publish, follow, ask
pub mod config; // TOML -> checked types; the only place that reads settings or environment
pub mod control; // the control plane: issue, revoke, audit, metrics
pub mod daemon; // start-up and shutdown, in order
pub mod decision; // the outcome words that wire, audit and metrics share
pub mod etag; // whether a client has the document already
mod https; // how others are asked over the web
pub mod json; // the one strict JSON reader
pub mod keys; // issuers' key sets: immutable snapshots
mod listener; // the accept loop of the slower HTTP listeners
pub mod metrics; // one counter set per shard, summed when scraped
pub mod mirror; // what the log holds, sent on to a SIEM and a Redis stream
pub mod revocation; // is this jti revoked: a local view with a known age
pub mod secevent; // security event tokens: what a transmitter says happened; pure
pub mod shard; // one per core: sockets, batching, the request path
pub mod status_list; // what issuers' status lists say of their tokens
pub mod store; // the state database behind control and revocation
pub mod tls; // handshakes of the data listener, away from the shards
pub mod token; // compact JWS and claims; pure
pub mod verify; // Ed25519: batch in, one verdict per item out
pub mod wire; // bytes -> Request, Reply -> bytes; pure // what the subcommands print
pub mod witness; // what other logs' checkpoints are cosigned by, and our own are given to
