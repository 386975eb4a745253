//! What a setting is when the file does not say.

use std::path::PathBuf;

use super::{Driver, OnAuditFailure, TokenProfile, VerifyAck};

/// `audit.ack_timeout_ms` of a node whose file does not say.
pub const ACK_TIMEOUT_MS: u64 = 250;
/// `audit.flush_interval_ms`.
pub const FLUSH_INTERVAL_MS: u64 = 20;
/// `audit.unflushed_age_max_ms`.
pub const UNFLUSHED_AGE_MAX_MS: u64 = 1_000;

pub(super) fn driver() -> Driver {
    Driver::Auto
}
pub(super) fn header_timeout_ms() -> u64 {
    5_000
}
pub(super) fn idle_timeout_ms() -> u64 {
    75_000
}
pub(super) fn body_bytes_max() -> usize {
    1 << 20
}
pub(super) fn connections_max() -> usize {
    16_384
}
pub(super) fn drain_timeout_ms() -> u64 {
    10_000
}
pub(super) fn control_listen() -> String {
    "127.0.0.1:8181".to_owned()
}
pub(super) fn segment_mib() -> u64 {
    64
}
pub(super) fn flush_interval_ms() -> u64 {
    FLUSH_INTERVAL_MS
}
pub(super) fn unflushed_age_max_ms() -> u64 {
    UNFLUSHED_AGE_MAX_MS
}
pub(super) fn ack_timeout_ms() -> u64 {
    ACK_TIMEOUT_MS
}
pub(super) fn unsigned_age_max_s() -> u64 {
    600
}
pub(super) fn verify_ack() -> VerifyAck {
    VerifyAck::Recorded
}
pub(super) fn on_failure() -> OnAuditFailure {
    OnAuditFailure::Deny
}
pub(super) fn hsm_agent_state() -> PathBuf {
    PathBuf::from("/var/lib/edgate-hsm")
}
pub(super) fn hsm_workers() -> usize {
    4
}
pub(super) fn hsm_queue_len_max() -> usize {
    1024
}
pub(super) fn hsm_sign_timeout_ms() -> u64 {
    2_000
}
/// Above what a signature takes on the slowest tokens we know of, some 100 ms; two such waits are far below a client's
/// patience.
pub(super) fn hsm_member_timeout_ms() -> u64 {
    150
}
pub(super) fn hsm_member_weight() -> u32 {
    1
}
pub(super) fn hsm_hang_limit_ms() -> u64 {
    5_000
}
pub(super) fn hsm_probe_interval_ms() -> u64 {
    10_000
}
pub(super) fn handshake_timeout_ms() -> u64 {
    5_000
}
pub(super) fn handshake_threads() -> usize {
    8
}
pub(super) fn ttl_s() -> u64 {
    120
}
pub(super) fn tenant() -> String {
    "default".to_owned()
}
pub(super) fn algorithms() -> Vec<String> {
    vec!["Ed25519".to_owned(), "EdDSA".to_owned()]
}
pub(super) fn leeway_s() -> u64 {
    5
}
pub(super) fn max_lifetime_s() -> u64 {
    3600
}
pub(super) fn profile() -> TokenProfile {
    TokenProfile::AgentTask
}
