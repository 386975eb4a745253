//! The record of a call that asked about many tokens: one event with all its decisions.
//!
//! What is recorded about a token borrows from memory that the next token reuses, so it is copied here until the
//! call's last token is decided.

use std::ops::Range;

use smallvec::SmallVec;

use crate::audit::{BatchEvent, BatchItem, Event};
use crate::decision::{Decision, UnixSeconds};
use crate::keys::IssuerIndex;

use super::Policy;
use super::request::Settled;

/// The decisions of one call so far.
#[derive(Default)]
pub(super) struct Bulk {
    text: String,
    items: Vec<Item>,
}

struct Item {
    decision: Decision,
    issuer: Option<IssuerIndex>,
    kid: Range<usize>,
    subject: Option<Range<usize>>,
    jti: Option<Range<usize>>,
    expires: Option<UnixSeconds>,
    stale: bool,
}

impl Bulk {
    /// Forgets the call before.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.items.clear();
    }

    /// How many tokens have been decided.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn push(&mut self, settled: &Settled<'_, '_>) {
        let mut keep = |text: &str| {
            let start = self.text.len();
            self.text.push_str(text);
            start..self.text.len()
        };
        let claims = settled.claims.as_ref();
        self.items.push(Item {
            decision: settled.decision,
            issuer: settled.key.map(|key| key.issuer()),
            kid: keep(settled.kid()),
            subject: claims.and_then(|claims| claims.sub).map(&mut keep),
            jti: claims.and_then(|claims| claims.jti).map(|jti| keep(jti.0)),
            expires: claims.and_then(|claims| claims.exp),
            stale: settled.stale,
        });
    }

    /// Has `record` take the event of the whole call; `frame` is the event without its items.
    pub(super) fn record<T>(
        &self,
        frame: &BatchEvent<'_>,
        policy: &Policy,
        record: impl FnOnce(&Event<'_>) -> T,
    ) -> T {
        let text = |range: &Range<usize>| &self.text[range.clone()];
        let items: SmallVec<[BatchItem<'_>; 16]> = self
            .items
            .iter()
            .map(|item| BatchItem {
                decision: item.decision,
                issuer: item.issuer.map_or("", |issuer| &policy.profiles[usize::from(issuer.0)].name),
                kid: text(&item.kid),
                tenant: item.issuer.map_or("", |issuer| &policy.profiles[usize::from(issuer.0)].tenant),
                subject: item.subject.as_ref().map(text),
                jti: item.jti.as_ref().map(text),
                expires: item.expires,
                stale: item.stale,
            })
            .collect();
        record(&Event::DecisionBatch(BatchEvent { items: &items, ..*frame }))
    }
}
