//! What handshakes came to.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of the TLS listeners, and when the certificate ends. Written by the threads of this room, read when scraped.
#[derive(Debug, Default)]
pub struct TlsMetrics {
    /// Handshakes completed with a signature of the certificate's key.
    pub full: AtomicU64,
    /// Handshakes completed with a ticket, without a signature.
    pub resumed: AtomicU64,
    /// Handshakes that were broken off, by either side or by the clock.
    pub failed: AtomicU64,
    /// Handshakes under way.
    pub under_way: AtomicU64,
    /// Connections closed since their shard had no room.
    pub crowded_out: AtomicU64,
    /// Signatures made.
    pub signatures: AtomicU64,
    /// Signatures that the key, or its token, did not give.
    pub signatures_failed: AtomicU64,
    /// The end of the certificate in use, in seconds since 1970.
    pub not_after: AtomicU64,
    /// Certificates put in place of another since the start.
    pub replaced: AtomicU64,
}

impl TlsMetrics {
    pub(super) fn signed(&self, good: bool) {
        add(if good { &self.signatures } else { &self.signatures_failed });
    }
}

pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
